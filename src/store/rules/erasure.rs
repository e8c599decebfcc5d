//! What stands in the place of a deleted account.

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::random_bytes;
use crate::model::network_of;

/// For how long after a deletion events are looked for: a batch of a gateway that could not reach
/// the database, or a transaction that commits late.
pub(in crate::store) const KEEP_ERASURE: Duration = Duration::from_hours(1);

/// Events that are dated this long after the deletion may still be of the deleted account: other
/// gateways learn of it within a second, and clocks differ. Later ones are of a new account that
/// was made with the same id.
pub(in crate::store) const LATE: Duration = Duration::from_mins(1);

/// How many events are rewritten at a time: a fraction of a second of work.
pub(in crate::store) const ERASE_BATCH: u32 = 1_000;

/// A name that nobody has, in the form of a user id: `deleted-` and 80 random bits in base 32. Not
/// made from the id: whoever knows an id could make it, too.
pub(in crate::store) fn pseudonym() -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digits = random_bytes::<16>().map(|byte| char::from(DIGITS[usize::from(byte % 32)]));
    format!("deleted-{}", digits.into_iter().collect::<String>())
}

/// What the row of an account holds for an address that is free again. Without a top-level domain
/// it is none: nobody can sign up with it, log in with it, or be sent a letter. It is not made from
/// the pseudonym in the events, which nothing shall lead back to the row.
pub(in crate::store) fn no_address() -> String {
    format!("{}@invalid", pseudonym().replacen('-', "+", 1))
}

/// As much of an address as is kept: the network, which says nothing of one person.
pub(in crate::store) fn reduced(address: IpAddr) -> IpAddr {
    network_of(address).network()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Email, UserId};

    #[test]
    fn pseudonyms_are_ids_and_differ_and_their_address_is_none() {
        let (one, other) = (pseudonym(), pseudonym());
        assert_ne!(one, other);
        assert!(one.parse::<UserId>().is_ok(), "{one}");
        assert_eq!(one.len(), "deleted-".len() + 16);
        let address = no_address();
        assert!(address.starts_with("deleted+") && address.ends_with("@invalid"), "{address}");
        assert!(address.parse::<Email>().is_err(), "{address}");
    }
}
