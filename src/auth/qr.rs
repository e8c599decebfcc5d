//! A text as a picture that a camera reads.

use std::fmt::Write as _;

use qrcodegen::{QrCode, QrCodeEcc};

/// Light modules around the code (ISO/IEC 18004 asks for four).
const QUIET: i32 = 4;

/// A QR code of `text` as an SVG picture; `None` when it is too long for one.
///
/// Client libraries put `data:image/svg+xml;utf-8,` before it and escape nothing: it has neither `#`
/// nor `%`, which would end or change such an address.
pub(super) fn svg(text: &str) -> Option<String> {
    // The lowest level; it is raised where that makes the picture no larger.
    let code = QrCode::encode_text(text, QrCodeEcc::Low).ok()?;
    let mut path = String::new();
    for y in 0..code.size() {
        let mut x = 0;
        while x < code.size() {
            let run = (x..code.size()).take_while(|&x| code.get_module(x, y)).count();
            let run = i32::try_from(run).unwrap_or_default();
            if run > 0 {
                // Writing to a text cannot fail.
                let _ = write!(path, "M{} {}h{run}v1h-{run}z", x + QUIET, y + QUIET);
            }
            x += run + 1;
        }
    }
    let size = code.size() + 2 * QUIET;
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"240\" height=\"240\" \
         viewBox=\"0 0 {size} {size}\" shape-rendering=\"crispEdges\">\
         <rect width=\"{size}\" height=\"{size}\" fill=\"white\"/>\
         <path fill=\"black\" d=\"{path}\"/></svg>"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dark modules, read from the picture.
    fn dark(svg: &str) -> Vec<(i32, i32)> {
        let path = svg.split(" d=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let mut modules = Vec::new();
        for run in path.split_terminator('z') {
            let (place, length) = run.strip_prefix('M').unwrap().split_once('h').unwrap();
            let (x, y) = place.split_once(' ').unwrap();
            let length: i32 = length.split('v').next().unwrap().parse().unwrap();
            let (x, y): (i32, i32) = (x.parse().unwrap(), y.parse().unwrap());
            modules.extend((x..x + length).map(|x| (x - QUIET, y - QUIET)));
        }
        modules
    }

    #[test]
    fn the_picture_has_the_modules_of_the_code() {
        let text = "otpauth://totp/app.example.com:ann@example.com?secret=GEZDGNBVGY3TQOJQ%20&x#";
        let picture = svg(text).unwrap();
        let code = QrCode::encode_text(text, QrCodeEcc::Low).unwrap();
        let all = (0..code.size()).flat_map(|y| (0..code.size()).map(move |x| (x, y)));
        let expected: Vec<_> = all.filter(|&(x, y)| code.get_module(x, y)).collect();
        assert_eq!(dark(&picture), expected);
        assert!(!picture.contains(['#', '%', '\n']), "{picture}");
    }

    #[test]
    fn the_longest_address_fits_and_more_does_not() {
        // Two names of 64 characters of four bytes, an address of 254 bytes, each byte escaped.
        assert!(svg(&"x".repeat(3 * (2 * 256 + 254) + 120)).is_some());
        assert!(svg(&"x".repeat(2953)).is_some());
        assert_eq!(svg(&"x".repeat(2954)), None);
    }
}
