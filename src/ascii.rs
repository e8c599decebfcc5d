//! Looks at many bytes at once. The request path asks of every byte of a token, a target and a log
//! line whether it is of a kind; a branch for each costs five times as much as vectors of them.

/// Whether all of `bytes` are of the kind that `fits` knows, which must do without branches: `|`
/// and `&`, not `||` and `&&`.
pub(crate) fn all(bytes: &[u8], fits: impl Fn(u8) -> bool) -> bool {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let block_fits = |block: &[u8; 32]| {
        let mut odd = 0;
        for &byte in block {
            odd |= u8::from(!fits(byte));
        }
        odd == 0
    };
    blocks.iter().all(block_fits) && rest.iter().all(|&byte| fits(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_odd_byte_is_seen_wherever_it_stands() {
        for length in 0..100 {
            let mut bytes = vec![b'a'; length];
            assert!(all(&bytes, |b| b == b'a'));
            for at in 0..length {
                bytes[at] = b'b';
                assert!(!all(&bytes, |b| b == b'a'), "{at} of {length}");
                bytes[at] = b'a';
            }
        }
    }
}
