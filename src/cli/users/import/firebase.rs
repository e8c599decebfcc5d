//! Firebase: the parameters of a project's hashes, as its console shows them.
//!
//! ```text
//! hash_config {
//!   algorithm: SCRYPT,
//!   base64_signer_key: <...>,
//!   base64_salt_separator: <...>,
//!   rounds: 8,
//!   mem_cost: 14,
//! }
//! ```

/// The parameters of a project.
#[derive(Debug)]
pub(super) struct Project {
    signer_key: String,
    salt_separator: String,
    rounds: u32,
    mem_cost: u32,
}

impl Project {
    /// Reads what the console shows. `Err` names what is missing.
    pub(super) fn read(text: &str) -> Result<Self, &'static str> {
        let value = |name: &str| {
            text.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                (found.trim() == name).then(|| value.trim().trim_end_matches(',').trim_matches('"'))
            })
        };
        let base64 = |name| value(name).map(standard);
        if value("algorithm").is_some_and(|algorithm| algorithm != "SCRYPT") {
            return Err("algorithm: SCRYPT");
        }
        Ok(Self {
            signer_key: base64("base64_signer_key")
                .filter(|key| !key.is_empty())
                .ok_or("base64_signer_key")?,
            salt_separator: base64("base64_salt_separator").ok_or("base64_salt_separator")?,
            rounds: value("rounds").and_then(|n| n.parse().ok()).ok_or("rounds")?,
            mem_cost: value("mem_cost").and_then(|n| n.parse().ok()).ok_or("mem_cost")?,
        })
    }

    /// The text that is stored.
    pub(super) fn stored(&self, hash: &str, salt: &str) -> String {
        let Self { signer_key, salt_separator, rounds, mem_cost } = self;
        let (hash, salt) = (standard(hash), standard(salt));
        format!(
            "$fbscrypt$v=1,n={mem_cost},r={rounds},p=1,ss={salt_separator},sk={signer_key}${salt}${hash}"
        )
    }
}

/// Exports have the alphabet for URLs.
fn standard(base64: &str) -> String {
    base64.replace('-', "+").replace('_', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_console_shows_is_read() {
        let text = "hash_config {\n  algorithm: SCRYPT,\n  base64_signer_key: ab_-==,\n  \
                    base64_salt_separator: Bw==,\n  rounds: 8,\n  mem_cost: 14,\n}\n";
        let project = Project::read(text).unwrap();
        let stored = "$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=ab/+==$s+lt$h/sh";
        assert_eq!(project.stored("h_sh", "s-lt"), stored);
        for (line, missing) in [
            ("  rounds: 8,\n", "rounds"),
            ("  base64_signer_key: ab_-==,\n", "base64_signer_key"),
            ("  base64_salt_separator: Bw==,\n", "base64_salt_separator"),
            ("  mem_cost: 14,\n", "mem_cost"),
        ] {
            assert_eq!(Project::read(&text.replace(line, "")).unwrap_err(), missing);
        }
        let other = text.replace("SCRYPT", "BCRYPT");
        assert_eq!(Project::read(&other).unwrap_err(), "algorithm: SCRYPT");
    }
}
