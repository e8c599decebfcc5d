//! The texts of letters: which there are, and what each may speak of.

/// Which text a letter has: what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// Prove the address of a new account.
    Confirmation,
    /// An administrator has made an account for the address.
    Invite,
    /// Log in although the password is lost.
    Recovery,
    /// Log in without a password.
    MagicLink,
    /// Prove the address that an account shall have: to that address.
    EmailChangeNew,
    /// Agree that an account shall have another address: to the address that it has.
    EmailChangeCurrent,
    /// Prove once more who is there.
    Reauthentication,
    /// Somebody has asked for an account with an address that has one.
    AlreadyRegistered,
    /// An account has another password.
    PasswordChanged,
    /// An account has another address: to the one that it had.
    EmailChanged,
    /// An account has another second factor.
    FactorAdded,
    /// An account has lost a second factor.
    FactorRemoved,
    /// A recovery code stood in for a second factor.
    RecoveryCodeUsed,
    /// Whether letters arrive at all.
    Test,
}

impl Template {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Confirmation,
        Self::Invite,
        Self::Recovery,
        Self::MagicLink,
        Self::EmailChangeNew,
        Self::EmailChangeCurrent,
        Self::Reauthentication,
        Self::AlreadyRegistered,
        Self::PasswordChanged,
        Self::EmailChanged,
        Self::FactorAdded,
        Self::FactorRemoved,
        Self::RecoveryCodeUsed,
        Self::Test,
    ];

    /// The word in names of files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Confirmation => "confirmation",
            Self::Invite => "invite",
            Self::Recovery => "recovery",
            Self::MagicLink => "magic_link",
            Self::EmailChangeNew => "email_change_new",
            Self::EmailChangeCurrent => "email_change_current",
            Self::Reauthentication => "reauthentication",
            Self::AlreadyRegistered => "already_registered",
            Self::PasswordChanged => "password_changed",
            Self::EmailChanged => "email_changed",
            Self::FactorAdded => "factor_added",
            Self::FactorRemoved => "factor_removed",
            Self::RecoveryCodeUsed => "recovery_code_used",
            Self::Test => "test",
        }
    }

    /// The letter with this [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The names of its texts: subject, plain text, HTML.
    pub fn files(self) -> [String; 3] {
        ["subject.txt", "txt", "html"].map(|end| format!("{}.{end}", self.name()))
    }

    /// Whether it carries a link that logs its reader in, or makes a change take effect.
    pub fn has_link(self) -> bool {
        self.has_code() && self != Self::Reauthentication
    }

    /// Whether it carries a code of six digits.
    pub fn has_code(self) -> bool {
        match self {
            Self::Confirmation
            | Self::Invite
            | Self::Recovery
            | Self::MagicLink
            | Self::EmailChangeNew
            | Self::EmailChangeCurrent
            | Self::Reauthentication => true,
            Self::AlreadyRegistered
            | Self::PasswordChanged
            | Self::EmailChanged
            | Self::FactorAdded
            | Self::FactorRemoved
            | Self::RecoveryCodeUsed
            | Self::Test => false,
        }
    }

    /// Whether it names an old and a new address.
    pub fn has_addresses(self) -> bool {
        matches!(self, Self::EmailChangeNew | Self::EmailChangeCurrent | Self::EmailChanged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_texts_apart() {
        for template in Template::ALL {
            assert_eq!(Template::from_name(template.name()), Some(template));
        }
        assert_eq!(Template::from_name("Confirmation"), None);
        assert_eq!(Template::Test.files(), ["test.subject.txt", "test.txt", "test.html"]);
    }
}
