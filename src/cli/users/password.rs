//! A password that a person types or another program gives.

use std::io::{IsTerminal as _, Read as _, Write as _};

use super::Failure;
use crate::auth::MAX_PASSWORD_BYTES;

/// One line of standard input; on a terminal it is asked for and not shown.
pub(super) fn read_password() -> Result<zeroize::Zeroizing<String>, Failure> {
    let cannot = |error: std::io::Error| Failure::failed("the password cannot be read", &error);
    let mut password = zeroize::Zeroizing::new(String::with_capacity(MAX_PASSWORD_BYTES + 2));
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprint!("Password: ");
        std::io::stderr().flush().map_err(cannot)?;
        let _hidden = HiddenInput::start().map_err(|error| cannot(error.into()))?;
        stdin.read_line(&mut password).map_err(cannot)?;
        eprintln!();
    } else {
        let most = MAX_PASSWORD_BYTES as u64 + 2;
        stdin.lock().take(most).read_to_string(&mut password).map_err(cannot)?;
    }
    let length = password.trim_end_matches(['\r', '\n']).len();
    password.truncate(length);
    Ok(password)
}

/// A terminal that does not show what is typed, until dropped.
struct HiddenInput(rustix::termios::Termios);

impl HiddenInput {
    fn start() -> rustix::io::Result<Self> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(std::io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
