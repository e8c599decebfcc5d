//! Servers that end with the tests, however the tests end.
//!
//! Statics are not dropped when a test process exits, and nothing is dropped when it is killed.
//! `PR_SET_PDEATHSIG` is no help: it fires when the *thread* that started the server ends, and
//! every test has its own. So a small shell sits at the read end of a pipe whose only write end
//! this process holds: when the process is gone, the kernel closes the pipe and the shell acts.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

/// Folders of servers begin with this.
const FOLDER_PREFIX: &str = "portcullis-test-";

/// The shell's work: wait for the end of the pipe; resume the server in case a test had stopped
/// it, end it, see it gone for at most 5 seconds, then remove its folder.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
read -r never
kill -s "$2" "$1"
kill -s CONT "$1"
tries=0
while kill -s 0 "$1" && [ "$tries" -lt 100 ]; do tries=$((tries + 1)); sleep 0.05; done
[ "$tries" -lt 100 ] || kill -s KILL "$1"
rm -rf -- "$3"
"#;

/// Watches over one server. Keep it as long as the server shall live; dropping it ends the
/// server, reaps it, and removes the folder.
pub(crate) struct Watchdog {
    server: Child,
    shell: Child,
}

impl Watchdog {
    /// Takes charge of `server`: when this is dropped or this process ends, `signal` (a name that
    /// `kill -s` knows, such as `QUIT`) ends it and `folder` is removed.
    pub(crate) fn over(server: Child, signal: &str, folder: &Path) -> Self {
        let shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "watchdog", &server.id().to_string(), signal])
            .arg(folder)
            // The write end is close-on-exec, as all pipes of the standard library are: no other
            // child keeps it open.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at the terminal goes to the whole group; this one must outlive it.
            .process_group(0)
            .spawn()
            .expect("/bin/sh starts");
        Self { server, shell }
    }

    /// Process id of the server.
    pub(crate) fn server_id(&self) -> u32 {
        self.server.id()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // Reaped first, so that the shell sees it gone and not as a zombie.
        let _ = self.server.wait();
        let _ = self.shell.wait();
    }
}

/// A new folder for a server, short enough for a socket path (107 bytes), traversable by a server
/// that runs as another user. Also removes such folders older than a day: of runs that ended
/// together with their watchdog, as when the machine went down.
pub(crate) fn server_folder() -> PathBuf {
    let mut parent = std::env::temp_dir();
    if parent.as_os_str().len() > 50 {
        parent = PathBuf::from("/tmp");
    }
    sweep(&parent);
    let folder = parent.join(format!("{FOLDER_PREFIX}{}", random_name()));
    fs::create_dir(&folder).expect("the system's temporary folder is writable");
    folder
}

/// Twelve characters that no other test has.
pub(crate) fn random_name() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..12].to_owned()
}

#[expect(clippy::disallowed_methods, reason = "compared with times of files, not with a test's")]
fn sweep(parent: &Path) {
    let yesterday = SystemTime::now() - Duration::from_hours(24);
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX);
        let touched = entry.metadata().and_then(|found| found.modified());
        if is_ours && touched.is_ok_and(|at| at < yesterday) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
