//! The oracle: a reader of HTTP/1.1 messages that takes nothing but what RFC 9112 lets a sender
//! write. It repairs nothing, so a message that it takes has one reading.

/// A request head.
#[derive(Debug)]
pub struct Request<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    /// `1` for HTTP/1.1, `0` for HTTP/1.0.
    pub minor: u8,
    pub fields: Vec<(&'a [u8], &'a [u8])>,
    pub framing: Framing,
    /// Bytes of the head.
    pub bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

/// Reads a request head at the front of `bytes`; why it is none.
pub fn request(bytes: &[u8]) -> Result<Request<'_>, &'static str> {
    let (line, mut rest) = take_line(bytes)?;
    let parts: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let [method, target, version] = parts[..] else { return Err("request line") };
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        _ => return Err("version"),
    };
    if method.is_empty() || !method.iter().all(|&b| is_token_byte(b)) {
        return Err("method");
    }
    if target.is_empty() || !target.iter().all(|&b| b > 0x20 && b < 0x7f) {
        return Err("target");
    }
    let mut fields = Vec::new();
    loop {
        let (line, after) = take_line(rest)?;
        rest = after;
        if line.is_empty() {
            break;
        }
        fields.push(field(line)?);
    }
    let all = |wanted: &str| -> Vec<&[u8]> { values(&fields, wanted) };
    match (all("host")[..].as_ref(), minor) {
        ([host], _) if is_authority(host) => {}
        ([], 0) => {}
        _ => return Err("host"),
    }
    let framing = match (&all("transfer-encoding")[..], &all("content-length")[..]) {
        ([], []) => Framing::Length(0),
        ([], [length]) => Framing::Length(decimal(length).ok_or("content-length")?),
        ([coding], []) if minor == 1 && coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        _ => return Err("framing"),
    };
    Ok(Request { method, target, minor, fields, framing, bytes: bytes.len() - rest.len() })
}

/// The values of all lines of a name.
pub fn values<'a>(fields: &[(&'a [u8], &'a [u8])], name: &str) -> Vec<&'a [u8]> {
    let same = |field: &&(&[u8], &[u8])| field.0.eq_ignore_ascii_case(name.as_bytes());
    fields.iter().filter(same).map(|(_, value)| *value).collect()
}

/// Reads one field line without its end.
pub fn field(line: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let colon = line.iter().position(|&b| b == b':').ok_or("no colon")?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|&b| is_token_byte(b)) {
        return Err("field name");
    }
    if !value.iter().all(|&b| b == b'\t' || (b >= 0x20 && b != 0x7f)) {
        return Err("field value");
    }
    let is_white = |b: &u8| *b == b' ' || *b == b'\t';
    let start = value.iter().position(|b| !is_white(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_white(b)).map_or(start, |last| last + 1);
    Ok((name, &value[start..end]))
}

/// The body in chunks at the front of `bytes`, and how long its coding is. `None`: more is needed.
/// Extensions and trailers may hold any text, as whoever passes them over need not read them.
pub fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let mut body = Vec::new();
    Ok(chunks_into(bytes, &mut body)?.map(|taken| (body, taken)))
}

/// As [`chunks`], and what can be read of a body that is none or not whole.
pub fn chunks_into(bytes: &[u8], body: &mut Vec<u8>) -> Result<Option<usize>, &'static str> {
    let mut rest = bytes;
    loop {
        let Some((line, after)) = whole_line(rest)? else { return Ok(None) };
        let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
        let tail = &line[digits..];
        let mark = tail.iter().find(|&&b| b != b' ' && b != b'\t');
        if digits == 0 || mark.is_some_and(|&b| b != b';') || !is_text(tail) {
            return Err("chunk size");
        }
        let mut size: u64 = 0;
        for digit in &line[..digits] {
            let value = char::from(*digit).to_digit(16).ok_or("chunk size")?;
            size = size.checked_mul(16).and_then(|s| s.checked_add(value.into())).ok_or("size")?;
        }
        rest = after;
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).map_err(|_| "size")?;
        if rest.len() < size {
            body.extend_from_slice(rest);
            return Ok(None);
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size..];
        match rest {
            [b'\r', b'\n', after @ ..] => rest = after,
            [] | [b'\r'] => return Ok(None),
            _ => return Err("chunk end"),
        }
    }
    loop {
        let Some((line, after)) = whole_line(rest)? else { return Ok(None) };
        rest = after;
        if line.is_empty() {
            return Ok(Some(bytes.len() - rest.len()));
        }
        field(line)?;
    }
}

pub fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b == b'\t' || (b >= 0x20 && b != 0x7f))
}

fn decimal(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if plain { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// A line without its end, and what follows.
type Line<'a> = (&'a [u8], &'a [u8]);

/// A line up to its CRLF. A CR or LF anywhere else is an error.
fn take_line(bytes: &[u8]) -> Result<Line<'_>, &'static str> {
    whole_line(bytes)?.ok_or("no line end")
}

fn whole_line(bytes: &[u8]) -> Result<Option<Line<'_>>, &'static str> {
    let Some(end) = bytes.iter().position(|&b| b == b'\r' || b == b'\n') else { return Ok(None) };
    match &bytes[end..] {
        [b'\r', b'\n', rest @ ..] => Ok(Some((&bytes[..end], rest))),
        [b'\r'] => Ok(None),
        _ => Err("bare CR or LF"),
    }
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2) with a name, an IPv4 address or a bracketed literal.
fn is_authority(host: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(host) else { return false };
    let (name, port) = match text.strip_prefix('[') {
        Some(literal) => match literal.split_once(']') {
            Some((inside, after)) => {
                let fits = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
                if inside.len() < 2 || !inside.chars().all(fits) {
                    return false;
                }
                (inside, after)
            }
            None => return false,
        },
        None => match text.find(':') {
            Some(colon) => (&text[..colon], &text[colon..]),
            None => (text, ""),
        },
    };
    let reg_name = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=%".contains(c);
    let named = !name.is_empty() && (text.starts_with('[') || name.chars().all(reg_name));
    let port_fits = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| port.chars().all(|c| c.is_ascii_digit()));
    named && port_fits
}
