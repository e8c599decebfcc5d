//! HPACK (RFC 7541) as the harness reads and writes it: writes every field as a literal without
//! indexing, so that a test can say anything, and reads whatever a server may send, by itself, so
//! that the gateway's encoder is checked by something else than the library it comes from.

use std::collections::VecDeque;

/// Appendix A, from index 1.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Appendix B: bits of the code of each byte, then of the end of a string. The codes follow from
/// the lengths, because they are handed out in order of length, then of value.
#[rustfmt::skip]
const CODE_BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11,
    10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8,
    15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5,
    6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23,
    23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21,
    23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25,
    26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26,
    28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// A field as it stands in a block; one char for each byte.
pub(crate) type Field = (String, String);

/// A field block with these fields, each as a literal without indexing (§6.2.2).
pub(crate) fn block<N: AsRef<str>, V: AsRef<str>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            let bytes: Vec<u8> =
                text.chars().map(|c| u8::try_from(c).expect("fields are Latin-1")).collect();
            integer(&mut block, 7, bytes.len());
            block.extend(bytes);
        }
    }
    block
}

/// Writes an integer behind a prefix of zero bits (§5.1).
fn integer(block: &mut Vec<u8>, prefix_bits: u32, value: usize) {
    let most = (1 << prefix_bits) - 1;
    let byte = |value: usize| u8::try_from(value).expect("less than a byte");
    if value < most {
        block.push(byte(value));
        return;
    }
    block.push(byte(most));
    let mut left = value - most;
    while left >= 128 {
        block.push(byte(left % 128 + 128));
        left /= 128;
    }
    block.push(byte(left));
}

/// Reads the blocks of one connection.
pub(crate) struct Decoder {
    table: VecDeque<Field>,
    /// What the sender may use, in the bytes of §4.1.
    limit: usize,
    /// What we told it.
    most: usize,
}

impl Decoder {
    /// A connection's first block is next; its sender may use a table of `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self { table: VecDeque::new(), limit: most, most }
    }

    /// The fields of a block.
    pub(crate) fn decode(&mut self, mut block: &[u8]) -> Result<Vec<Field>, String> {
        let mut fields = Vec::new();
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = read_integer(&mut block, 7)?;
                fields.push(self.entry(index)?);
            } else if first & 0xe0 == 0x20 {
                if !fields.is_empty() {
                    return Err("a table size behind a field".to_owned());
                }
                self.limit = read_integer(&mut block, 5)?;
                if self.limit > self.most {
                    return Err(format!("a table of {} bytes", self.limit));
                }
                self.evict();
            } else {
                let indexed = first & 0x40 != 0;
                let index = read_integer(&mut block, if indexed { 6 } else { 4 })?;
                let name = match index {
                    0 => read_string(&mut block)?,
                    _ => self.entry(index)?.0,
                };
                let field = (name, read_string(&mut block)?);
                if indexed {
                    self.table.push_front(field.clone());
                    self.evict();
                }
                fields.push(field);
            }
        }
        Ok(fields)
    }

    fn entry(&self, index: usize) -> Result<Field, String> {
        let place = index.checked_sub(1).ok_or("index 0")?;
        if let Some((name, value)) = STATIC.get(place) {
            return Ok(((*name).to_owned(), (*value).to_owned()));
        }
        let entry = self.table.get(place - STATIC.len());
        entry.cloned().ok_or_else(|| format!("index {index} is not in the table"))
    }

    fn evict(&mut self) {
        let bytes = |field: &Field| field.0.chars().count() + field.1.chars().count() + 32;
        while self.table.iter().map(bytes).sum::<usize>() > self.limit {
            self.table.pop_back();
        }
    }
}

fn read_integer(block: &mut &[u8], prefix_bits: u32) -> Result<usize, String> {
    let most = (1 << prefix_bits) - 1;
    let mut value = usize::from(take_byte(block)?) & most;
    if value < most {
        return Ok(value);
    }
    for shift in (0..28).step_by(7) {
        let byte = usize::from(take_byte(block)?);
        value += (byte & 127) << shift;
        if byte & 128 == 0 {
            return Ok(value);
        }
    }
    Err("an integer of more than four bytes".to_owned())
}

fn read_string(block: &mut &[u8]) -> Result<String, String> {
    let huffman = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = read_integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or("a string ends early")?;
    *block = rest;
    if huffman { unpack(bytes) } else { Ok(bytes.iter().map(|&b| char::from(b)).collect()) }
}

fn take_byte(block: &mut &[u8]) -> Result<u8, String> {
    let (first, rest) = block.split_first().ok_or("a block ends early")?;
    *block = rest;
    Ok(*first)
}

/// Undoes the Huffman code of a string (§5.2).
fn unpack(bytes: &[u8]) -> Result<String, String> {
    let mut text = String::new();
    // Of the code that is being read: its bits so far, and the first code of that length.
    let (mut code, mut bits, mut first) = (0_u32, 0_u8, 0_u32);
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |n| u32::from(byte >> n) & 1)) {
        code = code * 2 + bit;
        bits += 1;
        first *= 2;
        let here: u32 = CODE_BITS.iter().map(|length| u32::from(*length == bits)).sum();
        if code < first + here {
            let nth = usize::try_from(code - first).expect("at most 257");
            let symbol = (0..=256).filter(|&s| CODE_BITS[s] == bits).nth(nth).expect("counted");
            let byte = u8::try_from(symbol).map_err(|_| "an end inside a string")?;
            text.push(char::from(byte));
            (code, bits, first) = (0, 0, 0);
        } else {
            first += here;
            if bits > 30 {
                return Err(format!("no code behind {text:?}"));
            }
        }
    }
    // What is left is the begin of the code of the end: ones, less than a byte of them.
    if bits > 7 || code != (1 << bits) - 1 {
        return Err(format!("bad padding behind {text:?}"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|two| u8::try_from(two[0] * 16 + two[1]).expect("hex")).collect()
    }

    /// RFC 7541, C.6: three answers, Huffman coded, with a table of 256 bytes that overflows.
    #[test]
    fn the_examples_of_the_standard_are_read() {
        let mut decoder = Decoder::new(256);
        let first = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 \
                     82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
        let fields = decoder.decode(&bytes(first)).expect("a block");
        let wanted = [
            (":status", "302"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com"),
        ];
        assert_eq!(fields, wanted.map(|(n, v)| (n.to_owned(), v.to_owned())));
        let fields = decoder.decode(&bytes("4883 640e ffc1 c0bf")).expect("a block");
        assert_eq!(fields[0].1, "307");
        assert_eq!(
            fields[1..],
            wanted[1..].iter().map(|(n, v)| ((*n).into(), (*v).into())).collect::<Vec<_>>()
        );
        let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
                     77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
                     9587 3160 65c0 03ed 4ee5 b106 3d50 07";
        let fields = decoder.decode(&bytes(third)).expect("a block");
        assert_eq!(fields[5].1, "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
    }

    #[test]
    fn what_is_written_can_be_read() {
        let long = "x".repeat(5000);
        let fields = [(":path", "/a"), ("x", &*long), ("", "\0\u{ff}")];
        let read = Decoder::new(4096).decode(&block(&fields)).expect("a block");
        assert_eq!(read, fields.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }
}
