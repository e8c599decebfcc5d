//! Whether a link may be made, and what it does when it is used.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use subtle::ConstantTimeEq as _;

use super::{before, storable, whole_micros};
use crate::model::{
    AuthMethod, Challenge, ChallengeMethod, Event, EventKind, JsonObject, Letter, LetterKind,
    LetterOrigin, Outcome, PasswordHash, Purpose, SessionId, TokenDigest, User, UserId, uuid_v7,
};
use crate::store::links::{CodeMac, Consent, LinkUse, NewLink, PutLink, Shown};
use crate::store::outbox::{NewParcel, Parcel};

/// Wrong codes that end a code: with six digits, five tries find one in 200,000.
pub(in crate::store) const CODE_TRIES: u16 = 5;

/// For how long the link of a sign-up is kept after its end: it holds the password that was chosen,
/// and a link that is asked for again must bring it.
pub(in crate::store) const KEEP_SIGNUP: Duration = Duration::from_hours(7 * 24);

/// One of the two addresses in a change of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Side {
    /// The one to be left.
    Current,
    /// The one to be taken.
    New,
}

impl Side {
    /// The word in the database.
    pub(in crate::store) fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::New => "new",
        }
    }

    /// Reads the word in the database.
    pub(in crate::store) fn from_word(word: &str) -> Option<Self> {
        [Self::Current, Self::New].into_iter().find(|side| side.as_str() == word)
    }

    fn other(self) -> Self {
        match self {
            Self::Current => Self::New,
            Self::New => Self::Current,
        }
    }
}

/// The side that need not be asked.
pub(in crate::store) fn agreed_from_start(consent: Consent) -> Option<Side> {
    match consent {
        Consent::Both => None,
        Consent::New => Some(Side::Current),
    }
}

/// An account with what decides about its links. Its row is locked.
pub(in crate::store) struct Owner {
    pub(in crate::store) user: User,
    pub(in crate::store) email_key: String,
    pub(in crate::store) new_email_key: Option<String>,
    /// The side that agreed to the change of address.
    pub(in crate::store) agreed: Option<Side>,
}

/// A link as it was found.
#[derive(Clone)]
pub(in crate::store) struct FoundLink {
    pub(in crate::store) user_id: UserId,
    pub(in crate::store) purpose: Purpose,
    pub(in crate::store) digest: TokenDigest,
    pub(in crate::store) email_key: String,
    pub(in crate::store) code: Option<CodeMac>,
    pub(in crate::store) redirect_to: Option<String>,
    pub(in crate::store) challenge: Option<Challenge>,
    pub(in crate::store) password: Option<PasswordHash>,
    pub(in crate::store) user_metadata: Option<JsonObject>,
    pub(in crate::store) session_id: Option<SessionId>,
    pub(in crate::store) created_at: Timestamp,
    pub(in crate::store) expires_at: Timestamp,
}

impl FoundLink {
    fn is_expired(&self, now: Timestamp) -> bool {
        whole_micros(now) >= self.expires_at
    }

    /// Whether this is its code; takes the same time whatever the difference.
    fn has_code(&self, code: &CodeMac) -> bool {
        self.code.is_some_and(|known| bool::from(known.ct_eq(code)))
    }
}

// --- Making ------------------------------------------------------------------------------------

/// The links of an account that matter when one for `purpose` is made: the one that it replaces, and
/// those that bring something to an account to be.
pub(in crate::store) fn looked_at(purpose: Purpose) -> Vec<Purpose> {
    let mut purposes = vec![Purpose::Signup, Purpose::MagicLink];
    if !purposes.contains(&purpose) {
        purposes.push(purpose);
    }
    purposes
}

/// Which earlier links shall bring nothing any more, whether or not the new one is stored.
///
/// Several people may ask for an account with one address. Its owner proves it by whichever letter
/// comes, and would let in the password or the metadata of whoever asked for that one. So none of
/// them counts: the link proves the address, and the session that it opens may set a password.
pub(in crate::store) fn contested<'a>(
    link: &NewLink,
    owner: &Owner,
    earlier: &'a [FoundLink],
) -> Vec<&'a FoundLink> {
    let is_open = link.user_metadata.is_some() && owner.user.email_confirmed_at.is_none();
    let brings = |it: &&FoundLink| matches!(it.purpose, Purpose::Signup | Purpose::MagicLink);
    earlier.iter().filter(brings).filter(|it| is_open && !is_same_wish(link, it)).collect()
}

/// Whether the link is made once more for one letter, or for another that brings the same. Hashes
/// are salted: no two sign-ups have one.
fn is_same_wish(link: &NewLink, earlier: &FoundLink) -> bool {
    let metadata = link.user_metadata.as_ref().map(storable);
    link.purpose == earlier.purpose
        && link.password == earlier.password
        && (link.password.is_some() || metadata == earlier.user_metadata)
}

/// Whether what the link would bring to an account not yet proved may count.
fn may_bring(link: &NewLink, owner: &Owner, is_new: bool, earlier: &[FoundLink]) -> bool {
    match link.purpose {
        // An account that was there before is somebody's already: it may have been imported or
        // invited, with roles that are not for whoever asks first.
        Purpose::Signup => is_new || earlier.iter().any(|it| is_same_wish(link, it)),
        Purpose::MagicLink => contested(link, owner, earlier).is_empty(),
        _ => true,
    }
}

/// Decides about a link for `owner`, whose account `is_new` if it was made for this very link. `Ok` =
/// its user, and the link with what it keeps of the one that it replaces.
pub(in crate::store) fn may_put(
    link: &NewLink,
    owner: Owner,
    is_new: bool,
    earlier: Vec<FoundLink>,
    not_within: Duration,
) -> Result<(User, NewLink), Box<PutLink>> {
    let is_for = match link.purpose {
        // The wish may have changed since the letter was asked for.
        Purpose::EmailChangeNew => owner.new_email_key.as_deref() == Some(link.email.key()),
        Purpose::EmailChangeCurrent => {
            let wanted = owner.new_email_key.as_deref();
            // A letter that names one address must not agree to another.
            let is_named = link.new_email.as_ref().is_none_or(|new| wanted == Some(new.key()));
            wanted.is_some() && is_named && owner.email_key == link.email.key()
        }
        _ => owner.email_key == link.email.key(),
    };
    let is_agreed = side_of(link.purpose).is_some_and(|side| owner.agreed == Some(side));
    if !is_for || is_agreed || owner.user.deleted_at.is_some() {
        return Err(Box::new(PutLink::NoUser));
    }
    if owner.user.is_disabled(link.now) {
        return Err(Box::new(PutLink::Disabled));
    }
    if is_for_new_accounts(link.purpose) && owner.user.email_confirmed_at.is_some() {
        return Err(Box::new(PutLink::AddressTaken(owner.user)));
    }
    let may_bring = link.user_metadata.is_none() || may_bring(link, &owner, is_new, &earlier);
    let replaced = earlier.into_iter().find(|it| it.purpose == link.purpose);
    if replaced.as_ref().is_some_and(|it| it.created_at > before(link.now, not_within)) {
        return Err(Box::new(PutLink::TooSoon));
    }
    let mut link = link.clone();
    if !may_bring {
        (link.password, link.user_metadata) = (None, Some(JsonObject::new()));
    }
    if let (Some(replaced), Purpose::Signup, None) = (replaced, link.purpose, &link.user_metadata) {
        link.password = link.password.or(replaced.password);
        link.user_metadata = link.user_metadata.or(replaced.user_metadata);
    }
    Ok((owner.user, link))
}

fn side_of(purpose: Purpose) -> Option<Side> {
    match purpose {
        Purpose::EmailChangeCurrent => Some(Side::Current),
        Purpose::EmailChangeNew => Some(Side::New),
        _ => None,
    }
}

/// Whether a proved address has no more use for such a link.
fn is_for_new_accounts(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::Invite | Purpose::Signup)
}

// --- Using -------------------------------------------------------------------------------------

/// Which of the links that were found the shown thing opens; the error is why none does.
pub(in crate::store) fn opened<'a>(
    shown: &Shown,
    found: &'a [FoundLink],
    now: Timestamp,
) -> Result<&'a FoundLink, &'static str> {
    match shown {
        Shown::Link { digest, purposes } => {
            let link = found.iter().find(|link| link.digest == *digest).ok_or("unknown")?;
            if !purposes.contains(&link.purpose) {
                Err("wrong_purpose")
            } else if link.is_expired(now) {
                Err("expired")
            } else {
                Ok(link)
            }
        }
        Shown::Code { codes, .. } => {
            let running = || found.iter().filter(|link| !link.is_expired(now));
            let fits = |link: &&FoundLink| {
                codes.iter().any(|(purpose, code)| *purpose == link.purpose && link.has_code(code))
            };
            match running().find(fits) {
                Some(link) => Ok(link),
                None if running().next().is_some() => Err("wrong_code"),
                None => Err("unknown"),
            }
        }
    }
}

/// What using a link does.
#[derive(Debug, PartialEq)]
pub(in crate::store) enum LinkVerdict {
    /// Nothing, for this reason.
    Refuse(&'static str),
    /// One address agrees to a change; the other has not.
    Agree(Side),
    /// Both addresses have agreed.
    ChangeAddress,
    /// Logs in; nothing else changes.
    LogIn,
    /// Logs in and proves the address.
    Confirm,
    /// Proves the address, which makes the account the prover's: password and metadata become
    /// these, sessions and other links end.
    TakeOver { password: Option<PasswordHash>, user_metadata: JsonObject },
}

/// Judges a link that was opened.
pub(in crate::store) fn judge_link(link: &FoundLink, owner: &Owner, now: Timestamp) -> LinkVerdict {
    if owner.user.deleted_at.is_some() {
        return LinkVerdict::Refuse("unknown");
    }
    if owner.user.is_disabled(now) {
        return LinkVerdict::Refuse("user_disabled");
    }
    if let Some(side) = side_of(link.purpose) {
        let address = match side {
            Side::Current => Some(&owner.email_key),
            Side::New => owner.new_email_key.as_ref(),
        };
        return if owner.new_email_key.is_none() || address != Some(&link.email_key) {
            LinkVerdict::Refuse("address_changed")
        } else if owner.agreed == Some(side.other()) {
            LinkVerdict::ChangeAddress
        } else {
            LinkVerdict::Agree(side)
        };
    }
    if !link.purpose.proves_address() {
        return LinkVerdict::Refuse("wrong_purpose");
    }
    if link.email_key != owner.email_key {
        return LinkVerdict::Refuse("address_changed");
    }
    if owner.user.email_confirmed_at.is_some() {
        return if is_for_new_accounts(link.purpose) {
            LinkVerdict::Refuse("already_confirmed")
        } else {
            LinkVerdict::LogIn
        };
    }
    // Somebody may have signed up with an address that is not theirs and wait for its owner. Only a
    // link that answers a sign-up may leave what that sign-up brought.
    if link.purpose == Purpose::Signup && link.password.is_none() && link.user_metadata.is_none() {
        return LinkVerdict::Confirm;
    }
    // What an administrator gave meanwhile is for the owner of the address, who may have nothing to do
    // with the sign-up.
    let is_given = owner.user.invited_at.is_some()
        || !owner.user.roles.is_empty()
        || !owner.user.app_metadata.is_empty();
    LinkVerdict::TakeOver {
        password: link.password.clone().filter(|_| !is_given),
        user_metadata: link.user_metadata.clone().unwrap_or_default(),
    }
}

/// What the session of such a link says of how its user was known.
pub(in crate::store) fn method_of(purpose: Purpose) -> AuthMethod {
    match purpose {
        Purpose::EmailChangeCurrent | Purpose::EmailChangeNew => AuthMethod::EmailChange,
        Purpose::Invite => AuthMethod::Invite,
        _ => AuthMethod::Otp,
    }
}

/// Whether the verifier is that of the code's challenge (RFC 7636 §4.6).
pub(in crate::store) fn fits(code: &FoundLink, verifier: &str) -> bool {
    let Some(challenge) = &code.challenge else { return false };
    let made = match challenge.method() {
        ChallengeMethod::Plain => verifier.to_owned(),
        ChallengeMethod::S256 => URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes())),
    };
    made.as_bytes().ct_eq(challenge.text().as_bytes()).into()
}

/// Whether this is the code for the session to reauthenticate with.
pub(in crate::store) fn is_nonce(
    link: &FoundLink,
    session: SessionId,
    code: &CodeMac,
    now: Timestamp,
) -> bool {
    link.has_code(code) && link.session_id == Some(session) && !link.is_expired(now)
}

// --- Telling -----------------------------------------------------------------------------------

/// The event of a refused link or code, of the account that it was of, if any.
pub(in crate::store) fn refused_event(event: &Event, why: &str, link: Option<&FoundLink>) -> Event {
    Event {
        kind: EventKind::LinkRefused,
        outcome: Outcome::Failure,
        reason: Some(why.to_owned()),
        user_id: link.map(|link| link.user_id.clone()),
        ..event.clone()
    }
}

/// The event of a used link.
pub(in crate::store) fn used_event(
    event: &Event,
    purpose: Purpose,
    user: &UserId,
    session: Option<SessionId>,
) -> Event {
    Event {
        kind: EventKind::LinkUsed,
        outcome: Outcome::Success,
        reason: Some(purpose.as_str().to_owned()),
        user_id: Some(user.clone()),
        session_id: session,
        ..event.clone()
    }
}

/// The event of what a used link changed.
pub(in crate::store) fn change_event(event: &Event, kind: EventKind, user: &UserId) -> Event {
    Event {
        // The first event has the id that came with it.
        id: uuid_v7(event.at),
        kind,
        outcome: Outcome::Success,
        reason: None,
        user_id: Some(user.clone()),
        session_id: None,
        ..event.clone()
    }
}

/// The event of a change of address that came too late.
pub(in crate::store) fn taken_event(event: &Event, user: &UserId) -> Event {
    Event {
        kind: EventKind::EmailChangeFailed,
        outcome: Outcome::Failure,
        reason: Some("email_exists".to_owned()),
        user_id: Some(user.clone()),
        ..event.clone()
    }
}

/// The letter that tells the former address of a change. `None` when nobody wants one, or when the
/// address is one that was imported and cannot be written to.
pub(in crate::store) fn notice(
    link_use: &LinkUse,
    former: &User,
    user: &User,
) -> Option<NewParcel> {
    let email = link_use.notify_former_address.then(|| former.email.parse().ok())??;
    let asked_by = LetterOrigin {
        address: link_use.event.address,
        user_agent: link_use.event.user_agent.clone(),
        request_id: link_use.event.request_id.clone(),
    };
    let letter = Letter {
        user_id: Some(user.id.clone()),
        new_email: user.email.parse().ok(),
        ..Letter::new(LetterKind::EmailChanged, email, asked_by)
    };
    Some(NewParcel { id: uuid_v7(link_use.now), parcel: Parcel::Mail(letter), at: link_use.now })
}
