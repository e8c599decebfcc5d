//! Links, codes and what they lead to.

use std::num::NonZeroU32;
use std::time::Duration;

use portcullis::model::{
    Aal, AuthMethod, Challenge, ChallengeMethod, Email, EndReason, Event, EventKind, LetterKind,
    Outcome, PasswordHash, Proof, Purpose, TokenDigest, User, UserId, uuid_v7,
};
use portcullis::store::{
    CodeMac, Consent, Deletion, EventFilter, Fit, LinkOwner, LinkUse, NewEmail, NewLink, NewParcel,
    NewSession, Parcel, ParcelKind, PkceCode, PutLink, Refresh, Shown, SignUpAttempt, TradePkce,
    UpdateUser, UseLink, UserUpdate,
};
use serde_json::json;
use uuid::Uuid;

use super::{DAY, HOUR, Home, at, digest, event, hash, object, on_both, rotation};
use crate::store::outbox::letter;
use crate::store::sessions::{expect_unfit, no_fit};

on_both![
    a_link_logs_in_once,
    a_link_is_good_until_its_session_can_be_handed_out,
    links_that_do_not_fit_are_refused_alike_and_told_apart_in_events,
    the_newest_link_of_a_purpose_counts,
    of_sixteen_uses_of_one_link_one_wins,
    of_sixteen_uses_of_one_code_one_wins,
    the_fifth_wrong_code_ends_the_code_and_not_its_link,
    a_code_is_good_for_its_address_and_purpose,
    links_go_to_whom_they_are_for,
    an_account_is_made_for_a_free_address_and_not_proved,
    of_sixteen_links_for_a_free_address_one_makes_the_account,
    the_password_of_a_sign_up_counts_when_its_own_link_is_used,
    of_two_sign_ups_with_one_address_none_brings_a_password,
    a_sign_up_that_came_too_soon_takes_the_other_ones_password_too,
    a_letter_tried_again_keeps_the_password_of_its_sign_up,
    of_several_ways_to_an_account_to_be_none_brings_anything,
    an_account_that_was_there_before_is_not_for_who_signs_up,
    a_role_given_meanwhile_is_not_for_the_password_of_a_sign_up,
    an_older_letter_replaces_no_newer_link,
    a_letter_agrees_to_the_address_that_it_names,
    a_repeated_confirmation_brings_the_password_of_the_sign_up,
    who_proves_an_address_first_takes_the_account,
    a_plain_confirmation_changes_nothing_else,
    proved_addresses_are_not_confirmed_again,
    disabled_users_get_and_use_no_links,
    a_link_of_a_client_with_a_challenge_leaves_a_code,
    codes_of_links_are_traded_with_their_verifier_or_lost,
    of_sixteen_trades_of_one_code_one_wins,
    sessions_begun_by_links_are_too_many_too,
    both_addresses_agree_to_a_change_in_any_order,
    the_new_address_alone_agrees_where_that_will_do,
    an_address_that_was_taken_meanwhile_stays_with_its_owner,
    of_two_users_who_prove_one_address_one_has_it,
    an_older_wish_for_an_address_is_void,
    a_nonce_is_checked_often_and_used_once,
    of_sixteen_uses_of_one_nonce_one_wins,
    a_new_password_ends_every_link,
    links_go_with_their_account,
    what_has_expired_is_pruned,
    accounts_that_nobody_came_for_are_pruned,
    a_sign_up_is_known_in_its_network_until_its_letter_has_expired,
    who_proves_the_address_has_its_sign_up_forgotten_there,
];

/// What is shown of a link.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    token: TokenDigest,
    code: CodeMac,
}

fn email(address: &str) -> Email {
    address.parse().unwrap()
}

/// A link that lasts an hour.
fn link(owner: LinkOwner, purpose: Purpose, address: &str, second: i64) -> (NewLink, Sent) {
    let sent = Sent { token: digest(), code: digest().0 };
    let link = NewLink {
        digest: sent.token,
        owner,
        purpose,
        email: email(address),
        code: Some(sent.code),
        redirect_to: Some("https://app.example/in".to_owned()),
        challenge: None,
        password: None,
        user_metadata: None,
        new_email: None,
        session_id: None,
        now: at(second),
        expires_at: at(second + HOUR),
    };
    (link, sent)
}

fn shown(sent: Sent, purposes: &[Purpose]) -> Shown {
    Shown::Link { digest: sent.token, purposes: purposes.to_vec() }
}

fn shown_code(sent: Sent, address: &str, purpose: Purpose) -> Shown {
    Shown::Code { email: email(address), codes: vec![(purpose, sent.code)] }
}

fn new_session(second: i64) -> NewSession {
    NewSession {
        id: Uuid::from_bytes(portcullis::clock::random_bytes()),
        refresh: digest(),
        expires_at: at(second + 30 * DAY),
        access_expires_at: at(second + HOUR),
        address: Some("192.0.2.7".parse().unwrap()),
        user_agent: Some("test/2".to_owned()),
        max_sessions: None,
        fit: Fit::always(),
    }
}

fn link_use(shown: Shown, second: i64) -> LinkUse {
    LinkUse {
        shown,
        session: new_session(second),
        pkce: None,
        notify_former_address: true,
        now: at(second),
        event: event(EventKind::LinkUsed, second),
    }
}

impl Home {
    async fn put(&self, link: &NewLink) -> PutLink {
        let second = link.now.as_second() - at(0).as_second();
        self.store.put_link(link, Duration::ZERO, &event(EventKind::Signup, second)).await.unwrap()
    }

    /// Stores a link for whoever has the address.
    pub(super) async fn sent(&self, purpose: Purpose, address: &str, second: i64) -> Sent {
        let (link, sent) = link(LinkOwner::Address, purpose, address, second);
        let put = self.put(&link).await;
        assert!(matches!(put, PutLink::Stored(_)), "{put:?}");
        sent
    }

    async fn use_shown(&self, shown: Shown, second: i64) -> UseLink {
        self.store.use_link(&link_use(shown, second)).await.unwrap()
    }

    pub(super) async fn use_sent(&self, sent: Sent, purpose: Purpose, second: i64) -> UseLink {
        self.use_shown(shown(sent, &[purpose]), second).await
    }

    /// Why the last thing was refused.
    async fn refusal(&self) -> String {
        let newest = self.newest_event().await;
        assert_eq!(newest.outcome, Outcome::Failure);
        newest.reason.unwrap()
    }

    /// The last event that was stored: those of one second have no order in time.
    async fn newest_event(&self) -> Event {
        let events = self.store.events(&EventFilter::default(), 1000, None).await.unwrap();
        events.into_iter().max_by_key(|stored| stored.number).unwrap().event
    }

    async fn found(&self, user: &UserId) -> User {
        self.store.user(user).await.unwrap().unwrap()
    }

    async fn password(&self, user: &UserId) -> Option<PasswordHash> {
        self.store.account_by_id(user).await.unwrap().unwrap().password_hash
    }

    async fn confirm(&self, user: &UserId) {
        let confirmed = event(EventKind::UserConfirmed, 1);
        self.store.confirm_email(user, at(1), &confirmed).await.unwrap().unwrap();
    }

    /// A user whose address is proved.
    async fn confirmed(&self, name: &str) -> (UserId, portcullis::store::NewLogin) {
        let (user, login) = self.user(name).await;
        self.confirm(&user).await;
        (user, login)
    }

    async fn change(&self, user: &UserId, update: UserUpdate, second: i64) -> UpdateUser {
        let updated = [event(EventKind::UserUpdated, second)];
        self.store.update_user(user, &update, at(second), &updated).await.unwrap()
    }

    async fn wants(&self, user: &UserId, address: &str, consent: Consent, second: i64) {
        let new_email = Some(NewEmail { email: email(address), consent });
        let running = self.store.sessions_of(user, at(second)).await.unwrap();
        let update = UserUpdate { new_email, keep_session: running[0].id, ..update() };
        let done = self.change(user, update, second).await;
        let UpdateUser::Done { user, ended } = done else { panic!("{done:?}") };
        assert_eq!((user.new_email.as_deref(), ended.len()), (Some(address), 0));
    }
}

pub(super) fn update() -> UserUpdate {
    UserUpdate {
        metadata_patch: None,
        max_metadata_bytes: 1000,
        new_password: None,
        keep_session: Uuid::nil(),
        aal: Aal::One,
        sign_out_others: true,
        nonce: None,
        new_email: None,
        parcels: Vec::new(),
    }
}

#[track_caller]
pub(super) fn logged_in(end: UseLink) -> (User, portcullis::model::Session) {
    match end {
        UseLink::LoggedIn { user, session, .. } => (user, session),
        other => panic!("{other:?}"),
    }
}

async fn a_link_logs_in_once(home: Home) {
    let (ann, first) = home.confirmed("ann").await;
    let sent = home.sent(Purpose::Recovery, "ANN@example.com", 10).await;
    let asked = link_use(shown(sent, &[Purpose::Signup, Purpose::Recovery]), 20);
    let end = home.store.use_link(&asked).await.unwrap();
    let UseLink::LoggedIn { user, session, purpose, redirect_to, ended } = end else {
        panic!("{end:?}")
    };
    assert_eq!((user.id.clone(), user.last_sign_in_at), (ann.clone(), Some(at(20))));
    assert_eq!((session.id, session.user_id.clone()), (asked.session.id, ann.clone()));
    assert_eq!(session.methods, [Proof::new(AuthMethod::Otp, at(20))]);
    assert_eq!(session.expires_at, at(20 + 30 * DAY));
    assert_eq!(purpose, Purpose::Recovery);
    assert_eq!(redirect_to.as_deref(), Some("https://app.example/in"));
    assert!(ended.is_empty());
    assert_eq!(home.store.session(&session.id).await.unwrap(), Some(session));
    assert_eq!(home.password(&ann).await, Some(hash("first")), "only a login");
    assert_eq!(home.store.sessions_of(&ann, at(20)).await.unwrap().len(), 2);

    // Its tokens are refreshed like others, and say the same of how the user was known.
    let refreshed = home.store.refresh(&rotation(asked.session.refresh, 30)).await.unwrap();
    let Refresh::Rotated { session, .. } = refreshed else { panic!("{refreshed:?}") };
    assert_eq!(session.methods[0].method, AuthMethod::Otp);
    let refreshed = home.store.refresh(&rotation(first.refresh, 30)).await.unwrap();
    let Refresh::Rotated { session, .. } = refreshed else { panic!("{refreshed:?}") };
    assert_eq!(session.methods[0].method, AuthMethod::Password);

    let events = home.store.events_of_user(&ann, 10, None).await.unwrap();
    let used = events.iter().find(|e| e.event.kind == EventKind::LinkUsed).unwrap().event.clone();
    assert_eq!((used.reason.as_deref(), used.outcome), (Some("recovery"), Outcome::Success));
    assert_eq!(used.session_id, Some(asked.session.id));
    // The code was in the same mail.
    assert_eq!(home.use_sent(sent, Purpose::Recovery, 21).await, UseLink::Refused);
    let code = shown_code(sent, "ann@example.com", Purpose::Recovery);
    assert_eq!(home.use_shown(code, 21).await, UseLink::Refused);
    assert_eq!(home.refusal().await, "unknown");
}

async fn a_link_is_good_until_its_session_can_be_handed_out(home: Home) {
    let (ann, login) = home.user("ann").await;
    let kinds = home.kinds().await;
    let sent = home.sent(Purpose::Signup, "ann@example.com", 10).await;
    let mut tried = link_use(shown(sent, &[Purpose::Signup]), 11);
    tried.session.fit = no_fit(&ann, tried.session.id);
    expect_unfit(home.store.use_link(&tried).await, &ann);
    assert!(home.found(&ann).await.email_confirmed_at.is_none());
    let (_, session) = logged_in(home.use_sent(sent, Purpose::Signup, 12).await);

    let code = pkce_code(&home, ChallengeMethod::S256, CHALLENGE, 20).await;
    let tried = new_session(21);
    let tried = NewSession { fit: no_fit(&ann, tried.id), ..tried };
    let used = event(EventKind::LinkUsed, 21);
    let end = home.store.trade_pkce(code, VERIFIER, &tried, at(21), &used).await;
    expect_unfit(end, &ann);
    let traded = trade(&home, code, VERIFIER, 22).await;
    assert!(matches!(traded, TradePkce::LoggedIn { .. }), "{traded:?}");

    let running = home.store.sessions_of(&ann, at(23)).await.unwrap();
    assert_eq!(running.len(), 3, "{running:?}");
    assert!(running.iter().any(|known| known.id == session.id));
    assert!(running.iter().any(|known| known.id == login.session.id));
    // One address proved by a link; one that left a code, was shown again, and the code traded.
    // Those of one second have no order.
    let found = home.kinds().await;
    let count = |wanted: EventKind| found.iter().filter(|kind| **kind == wanted).count();
    assert_eq!(found.len(), kinds.len() + 5, "{found:?}");
    let counts = [EventKind::LinkUsed, EventKind::LinkRefused, EventKind::UserConfirmed].map(count);
    assert_eq!(counts, [3, 1, 1]);
}

async fn links_that_do_not_fit_are_refused_alike_and_told_apart_in_events(home: Home) {
    home.confirmed("ann").await;
    let sent = home.sent(Purpose::Recovery, "ann@example.com", 0).await;
    let unknown = Sent { token: digest(), code: digest().0 };
    for (tried, purpose, second, why) in [
        (unknown, Purpose::Recovery, 1, "unknown"),
        (sent, Purpose::MagicLink, 1, "wrong_purpose"),
        (sent, Purpose::Recovery, HOUR, "expired"),
    ] {
        assert_eq!(home.use_sent(tried, purpose, second).await, UseLink::Refused, "{why}");
        let newest = home.newest_event().await;
        assert_eq!((newest.kind, newest.session_id), (EventKind::LinkRefused, None));
        assert_eq!(home.refusal().await, why);
    }
    logged_in(home.use_sent(sent, Purpose::Recovery, HOUR - 1).await);
}

async fn the_newest_link_of_a_purpose_counts(home: Home) {
    home.confirmed("ann").await;
    let old = home.sent(Purpose::Recovery, "ann@example.com", 0).await;
    let other = home.sent(Purpose::MagicLink, "ann@example.com", 0).await;

    let (newer, new) = link(LinkOwner::Address, Purpose::Recovery, "ann@example.com", 59);
    let minute = Duration::from_mins(1);
    let signup = event(EventKind::Signup, 59);
    let put = home.store.put_link(&newer, minute, &signup).await.unwrap();
    assert_eq!(put, PutLink::TooSoon);
    let later = NewLink { now: at(60), ..newer };
    let put = home.store.put_link(&later, minute, &signup).await.unwrap();
    assert!(matches!(put, PutLink::Stored(_)), "{put:?}");

    assert_eq!(home.use_sent(old, Purpose::Recovery, 61).await, UseLink::Refused);
    logged_in(home.use_sent(new, Purpose::Recovery, 61).await);
    logged_in(home.use_sent(other, Purpose::MagicLink, 61).await);
}

/// How many of sixteen calls at once end as wanted.
pub(super) async fn winners<T, F: Future<Output = T>>(
    call: impl Fn(usize) -> F,
    is_win: impl Fn(&T) -> bool,
) -> usize {
    let ends = futures_util::future::join_all((0..16).map(call)).await;
    ends.iter().filter(|end| is_win(end)).count()
}

async fn of_sixteen_uses_of_one_link_one_wins(home: Home) {
    let (ann, _) = home.confirmed("ann").await;
    let sent = home.sent(Purpose::MagicLink, "ann@example.com", 0).await;
    let uses = |_| home.use_sent(sent, Purpose::MagicLink, 1);
    assert_eq!(winners(uses, |end| matches!(end, UseLink::LoggedIn { .. })).await, 1);
    assert_eq!(home.store.sessions_of(&ann, at(1)).await.unwrap().len(), 2);
    let kinds = home.kinds().await;
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::LinkUsed).count(), 1);
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::LinkRefused).count(), 15);
}

async fn of_sixteen_uses_of_one_code_one_wins(home: Home) {
    let (ann, _) = home.confirmed("ann").await;
    let sent = home.sent(Purpose::MagicLink, "ann@example.com", 0).await;
    // Half of them come by the link of the same mail.
    let uses = |n| {
        let tried = if n % 2 == 0 {
            shown(sent, &[Purpose::MagicLink])
        } else {
            shown_code(sent, "ann@example.com", Purpose::MagicLink)
        };
        home.use_shown(tried, 1)
    };
    assert_eq!(winners(uses, |end| matches!(end, UseLink::LoggedIn { .. })).await, 1);
    assert_eq!(home.store.sessions_of(&ann, at(1)).await.unwrap().len(), 2);
}

async fn the_fifth_wrong_code_ends_the_code_and_not_its_link(home: Home) {
    home.confirmed("ann").await;
    let sent = home.sent(Purpose::Recovery, "ann@example.com", 0).await;
    let wrong = Sent { code: [7; 32], ..sent };
    let code = |sent| shown_code(sent, "ann@example.com", Purpose::Recovery);
    for _ in 0..4 {
        assert_eq!(home.use_shown(code(wrong), 1).await, UseLink::Refused);
        assert_eq!(home.refusal().await, "wrong_code");
    }
    let again = home.sent(Purpose::Recovery, "ann@example.com", 2).await;
    for _ in 0..4 {
        assert_eq!(home.use_shown(code(wrong), 3).await, UseLink::Refused);
    }
    logged_in(home.use_shown(code(again), 3).await);

    let sent = home.sent(Purpose::Recovery, "ann@example.com", 4).await;
    // Sixteen guesses at once are not more than five.
    let uses = |_| home.use_shown(code(wrong), 5);
    assert_eq!(winners(uses, |end| *end == UseLink::Refused).await, 16);
    assert_eq!(home.use_shown(code(sent), 6).await, UseLink::Refused, "the right one, too late");
    assert_eq!(home.refusal().await, "unknown");
    logged_in(home.use_sent(sent, Purpose::Recovery, 6).await);
    let kinds = home.kinds().await;
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::LinkRefused).count(), 25);
}

async fn a_code_is_good_for_its_address_and_purpose(home: Home) {
    home.confirmed("ann").await;
    home.confirmed("bob").await;
    let anns = home.sent(Purpose::Recovery, "ann@example.com", 0).await;
    let bobs = home.sent(Purpose::MagicLink, "bob@example.com", 0).await;
    for tried in [
        shown_code(anns, "bob@example.com", Purpose::MagicLink),
        shown_code(bobs, "ann@example.com", Purpose::Recovery),
        shown_code(anns, "ann@example.com", Purpose::MagicLink),
        shown_code(anns, "nobody@example.com", Purpose::Recovery),
    ] {
        assert_eq!(home.use_shown(tried, 1).await, UseLink::Refused);
    }
    let late = shown_code(anns, "ann@example.com", Purpose::Recovery);
    assert_eq!(home.use_shown(late, HOUR).await, UseLink::Refused);
    // A client that says `email` means either.
    let codes = vec![(Purpose::Signup, [1; 32]), (Purpose::MagicLink, bobs.code)];
    let either = Shown::Code { email: email("BOB@example.com"), codes };
    logged_in(home.use_shown(either, 1).await);
    logged_in(home.use_shown(shown_code(anns, "ann@example.com", Purpose::Recovery), 1).await);
}

async fn links_go_to_whom_they_are_for(home: Home) {
    let (ann, _) = home.confirmed("ann").await;
    let nobody: UserId = "nobody".parse().unwrap();
    for (owner, purpose, address) in [
        (LinkOwner::Address, Purpose::Recovery, "nobody@example.com"),
        (LinkOwner::Id(nobody), Purpose::Recovery, "ann@example.com"),
        // Asked for before the address changed.
        (LinkOwner::Id(ann.clone()), Purpose::Reauthentication, "old@example.com"),
        (LinkOwner::Id(ann.clone()), Purpose::EmailChangeCurrent, "ann@example.com"),
        (LinkOwner::Id(ann.clone()), Purpose::EmailChangeNew, "new@example.com"),
    ] {
        let (link, sent) = link(owner, purpose, address, 0);
        assert_eq!(home.put(&link).await, PutLink::NoUser, "{purpose:?}");
        assert_eq!(home.use_sent(sent, purpose, 1).await, UseLink::Refused);
    }
    for purpose in [Purpose::Signup, Purpose::Invite] {
        let (link, _) = link(LinkOwner::Address, purpose, "ann@example.com", 0);
        let put = home.put(&link).await;
        assert!(matches!(&put, PutLink::AddressTaken(user) if user.id == ann), "{put:?}");
    }
}

async fn an_account_is_made_for_a_free_address_and_not_proved(home: Home) {
    let id: UserId = "u-new".parse().unwrap();
    let new = LinkOwner::AddressOrNew(id.clone());
    let (mut invitation, sent) = link(new.clone(), Purpose::Invite, "Ann@Example.com", 5);
    invitation.user_metadata = Some(object(json!({"name": "Ann\u{0}"})));
    let put = home.put(&invitation).await;
    let PutLink::Stored(user) = put else { panic!("{put:?}") };
    assert_eq!((user.id.clone(), user.email.as_str()), (id.clone(), "Ann@Example.com"));
    assert_eq!((user.email_confirmed_at, user.invited_at), (None, Some(at(5))));
    assert_eq!((user.created_at, user.user_metadata.len()), (at(5), 0));
    assert_eq!(home.password(&id).await, None);
    let events = home.store.events_of_user(&id, 10, None).await.unwrap();
    assert_eq!(events.len(), 1, "that the account was made");

    // Another one for the same address is for the same account.
    let other = LinkOwner::AddressOrNew("u-other".parse().unwrap());
    let (again, _) = link(other, Purpose::MagicLink, "ANN@example.com", 6);
    let put = home.put(&again).await;
    assert!(matches!(&put, PutLink::Stored(user) if user.id == id), "{put:?}");
    assert_eq!(home.store.users(None, 10, None).await.unwrap().len(), 1);
    assert_eq!(home.kinds().await, [EventKind::Signup]);

    let (user, session) = logged_in(home.use_sent(sent, Purpose::Invite, 7).await);
    assert_eq!(user.email_confirmed_at, Some(at(7)));
    assert_eq!(user.user_metadata, object(json!({"name": "Ann\u{fffd}"})));
    assert_eq!(session.methods[0].method, AuthMethod::Invite);
}

async fn of_sixteen_links_for_a_free_address_one_makes_the_account(home: Home) {
    let puts = |n| {
        let new = LinkOwner::AddressOrNew(format!("u-{n}").parse().unwrap());
        let (link, _) = link(new, Purpose::MagicLink, "ann@example.com", 0);
        let home = &home;
        async move { home.put(&link).await }
    };
    assert_eq!(winners(puts, |end| matches!(end, PutLink::Stored(_))).await, 16);
    assert_eq!(home.store.users(None, 100, None).await.unwrap().len(), 1);
    assert_eq!(home.kinds().await, [EventKind::Signup]);
}

fn sign_up_link(address: &str, password: &str, second: i64) -> (NewLink, Sent) {
    let id: UserId = format!("u-{}-{second}", address.replace('@', "-")).parse().unwrap();
    let (mut link, sent) = link(LinkOwner::AddressOrNew(id), Purpose::Signup, address, second);
    link.password = Some(hash(password));
    link.user_metadata = Some(object(json!({"of": password})));
    (link, sent)
}

/// A sign-up of an address, as far as its mail: nobody was looked up before.
async fn sign_up(home: &Home, address: &str, password: &str, second: i64) -> (UserId, Sent) {
    let (link, sent) = sign_up_link(address, password, second);
    match home.put(&link).await {
        PutLink::Stored(user) => (user.id, sent),
        other => panic!("{other:?}"),
    }
}

async fn the_password_of_a_sign_up_counts_when_its_own_link_is_used(home: Home) {
    let (ann, anns) = sign_up(&home, "ann@example.com", "ann", 10).await;
    assert_eq!(home.password(&ann).await, None, "not yet");
    let (user, session) = logged_in(home.use_sent(anns, Purpose::Signup, 12).await);
    assert_eq!(user.email_confirmed_at, Some(at(12)));
    assert_eq!(user.user_metadata, object(json!({"of": "ann"})));
    assert_eq!(home.password(&ann).await, Some(hash("ann")));
    assert_eq!(session.methods[0].method, AuthMethod::Otp);
    let mut kinds: Vec<_> = home.kinds().await;
    kinds.truncate(2);
    kinds.sort_by_key(|kind| kind.as_str());
    assert_eq!(kinds, [EventKind::LinkUsed, EventKind::UserConfirmed]);
}

async fn of_two_sign_ups_with_one_address_none_brings_a_password(home: Home) {
    // Whichever comes last: Ann cannot tell from her letters whose it is.
    for (name, order) in [("ann", ["thief", "own"]), ("bob", ["own", "thief"])] {
        let address = format!("{name}@example.com");
        let (id, first) = sign_up(&home, &address, order[0], 0).await;
        let (_, second) = sign_up(&home, &address, order[1], 100).await;
        assert_eq!(home.use_sent(first, Purpose::Signup, 101).await, UseLink::Refused);
        // Nor does asking for the letter again bring it back.
        let again = home.sent(Purpose::Signup, &address, 200).await;
        assert_eq!(home.use_sent(second, Purpose::Signup, 201).await, UseLink::Refused);
        let (user, session) = logged_in(home.use_sent(again, Purpose::Signup, 201).await);
        assert_eq!((user.email_confirmed_at, user.user_metadata.len()), (Some(at(201)), 0));
        assert_eq!(home.password(&id).await, None, "{order:?}");
        // The session may set one.
        let own = Some((hash("chosen"), None));
        let change = UserUpdate { new_password: own, keep_session: session.id, ..update() };
        assert!(matches!(home.change(&id, change, 202).await, UpdateUser::Done { .. }));
    }
    let (id, _) = sign_up(&home, "carol@example.com", "one", 0).await;
    sign_up(&home, "carol@example.com", "two", 100).await;
    let (_, third) = sign_up(&home, "carol@example.com", "three", 200).await;
    logged_in(home.use_sent(third, Purpose::Signup, 201).await);
    assert_eq!(home.password(&id).await, None);
}

async fn a_sign_up_that_came_too_soon_takes_the_other_ones_password_too(home: Home) {
    let (ann, thiefs) = sign_up(&home, "ann@example.com", "thief", 0).await;
    let own = sign_up_link("ann@example.com", "own", 59).0;
    let minute = Duration::from_mins(1);
    let signup = event(EventKind::Signup, 59);
    let put = home.store.put_link(&own, minute, &signup).await.unwrap();
    assert_eq!(put, PutLink::TooSoon, "Ann gets no letter but that of the thief");
    let (user, _) = logged_in(home.use_sent(thiefs, Purpose::Signup, 60).await);
    assert_eq!((user.id, user.user_metadata.len()), (ann.clone(), 0));
    assert_eq!(home.password(&ann).await, None);
}

async fn a_letter_tried_again_keeps_the_password_of_its_sign_up(home: Home) {
    for (name, is_contested) in [("ann", false), ("bob", true)] {
        let address = format!("{name}@example.com");
        let (one, _) = sign_up_link(&address, "own", 0);
        assert!(matches!(home.put(&one).await, PutLink::Stored(_)));
        if is_contested {
            let (other, _) = sign_up_link(&address, "thief", 10);
            let minute = Duration::from_mins(1);
            let signup = event(EventKind::Signup, 10);
            let put = home.store.put_link(&other, minute, &signup).await.unwrap();
            assert_eq!(put, PutLink::TooSoon);
        }
        // Its token is new, and it lasts longer.
        let (two, sent) = sign_up_link(&address, "own", 0);
        let put = home.put(&NewLink { expires_at: at(3 * HOUR), ..two }).await;
        let PutLink::Stored(user) = put else { panic!("{put:?}") };
        let (_, session) = logged_in(home.use_sent(sent, Purpose::Signup, 2 * HOUR).await);
        assert_eq!(session.user_id, user.id);
        let expected = (!is_contested).then(|| hash("own"));
        assert_eq!(home.password(&user.id).await, expected, "{name}");
    }
}

/// A wish to log in, and for an account if nobody has one.
fn magic_link(address: &str, of: &str, second: i64) -> (NewLink, Sent) {
    let new = LinkOwner::AddressOrNew(
        format!("u-{}-{second}", address.replace('@', "-")).parse().unwrap(),
    );
    let (mut link, sent) = link(new, Purpose::MagicLink, address, second);
    link.user_metadata = Some(object(json!({"of": of, "odd": "\u{0}"})));
    (link, sent)
}

async fn of_several_ways_to_an_account_to_be_none_brings_anything(home: Home) {
    // A link to log in is asked for before the sign-up, after it, and by two.
    let (asked, _) = magic_link("ann@example.com", "ann", 0);
    assert!(matches!(home.put(&asked).await, PutLink::Stored(_)));
    let (ann, thiefs) = sign_up(&home, "ann@example.com", "thief", 1).await;
    logged_in(home.use_sent(thiefs, Purpose::Signup, 2).await);
    assert_eq!(home.password(&ann).await, None);

    let (bob, thiefs) = sign_up(&home, "bob@example.com", "thief", 0).await;
    let (asked, _) = magic_link("bob@example.com", "bob", 1);
    assert!(matches!(home.put(&asked).await, PutLink::Stored(_)));
    let (user, _) = logged_in(home.use_sent(thiefs, Purpose::Signup, 2).await);
    assert_eq!((home.password(&bob).await, user.user_metadata.len()), (None, 0));

    let (thiefs, _) = magic_link("carol@example.com", "thief", 0);
    assert!(matches!(home.put(&thiefs).await, PutLink::Stored(_)));
    let (own, sent) = magic_link("carol@example.com", "carol", 1);
    assert!(matches!(home.put(&own).await, PutLink::Stored(_)));
    let (user, _) = logged_in(home.use_sent(sent, Purpose::MagicLink, 2).await);
    assert_eq!(user.user_metadata.len(), 0);

    // Who only asks twice keeps it.
    for second in [0, 100] {
        let (own, sent) = magic_link("dave@example.com", "dave", second);
        assert!(matches!(home.put(&own).await, PutLink::Stored(_)));
        if second == 100 {
            let (user, _) = logged_in(home.use_sent(sent, Purpose::MagicLink, 101).await);
            assert_eq!(user.user_metadata["of"], "dave");
        }
    }
}

async fn an_account_that_was_there_before_is_not_for_who_signs_up(home: Home) {
    // Imported: with a role, without a password, its address not proved.
    let mut imported = super::account("ann");
    imported.user.roles = vec!["admin".to_owned()];
    imported.password_hash = None;
    let signup = event(EventKind::Signup, 0);
    home.store.sign_up(&imported, None, &signup).await.unwrap();
    // Invited.
    let new = LinkOwner::AddressOrNew("u-bob".parse().unwrap());
    let (mut invitation, _) = link(new, Purpose::Invite, "bob@example.com", 0);
    invitation.user_metadata = Some(object(json!({"name": "Bob"})));
    assert!(matches!(home.put(&invitation).await, PutLink::Stored(_)));
    // Signed up where nobody had to prove the address.
    home.user("carol").await;
    for name in ["ann", "bob", "carol"] {
        let (id, thiefs) = sign_up(&home, &format!("{name}@example.com"), "thief", 10).await;
        let (user, _) = logged_in(home.use_sent(thiefs, Purpose::Signup, 11).await);
        assert_eq!((&user.id, user.user_metadata.len()), (&id, 0), "{name}");
        assert_eq!(home.password(&id).await, None, "{name}");
    }

    // Invited after the sign-up: the letters are two.
    let (dave, thiefs) = sign_up(&home, "dave@example.com", "thief", 0).await;
    let (mut invitation, _) = link(LinkOwner::Address, Purpose::Invite, "dave@example.com", 1);
    invitation.user_metadata = Some(object(json!({"name": "Dave"})));
    assert!(matches!(home.put(&invitation).await, PutLink::Stored(_)));
    logged_in(home.use_sent(thiefs, Purpose::Signup, 2).await);
    assert_eq!(home.password(&dave).await, None);
}

async fn a_role_given_meanwhile_is_not_for_the_password_of_a_sign_up(home: Home) {
    let (ann, thiefs) = sign_up(&home, "ann@example.com", "thief", 0).await;
    let given = event(EventKind::UserUpdated, 1);
    home.store.set_roles(&ann, &["admin".to_owned()], at(1), &given).await.unwrap();
    let (user, _) = logged_in(home.use_sent(thiefs, Purpose::Signup, 2).await);
    assert_eq!(user.roles, ["admin"]);
    assert_eq!(home.password(&ann).await, None);
}

async fn an_older_letter_replaces_no_newer_link(home: Home) {
    home.confirmed("ann").await;
    let newer = home.sent(Purpose::Recovery, "ann@example.com", 100).await;
    // It waited for the mail server all the time.
    let (older, _) = link(LinkOwner::Address, Purpose::Recovery, "ann@example.com", 0);
    assert_eq!(home.put(&older).await, PutLink::TooSoon);
    logged_in(home.use_sent(newer, Purpose::Recovery, 101).await);

    // The sign-up that came first does not get its way by being late, nor does the other.
    let (bob, newer) = sign_up(&home, "bob@example.com", "bob", 100).await;
    let (older, _) = sign_up_link("bob@example.com", "thief", 0);
    assert_eq!(home.put(&older).await, PutLink::TooSoon);
    logged_in(home.use_sent(newer, Purpose::Signup, 101).await);
    assert_eq!(home.password(&bob).await, None);
}

async fn a_letter_agrees_to_the_address_that_it_names(home: Home) {
    let (ann, _) = home.confirmed("ann").await;
    let to_current = |named: Option<&str>, second| {
        let owner = LinkOwner::Id(ann.clone());
        let (mut link, sent) = link(owner, Purpose::EmailChangeCurrent, "ann@example.com", second);
        link.new_email = named.map(email);
        (link, sent)
    };
    home.wants(&ann, "one@example.com", Consent::Both, 10).await;
    let (asked, sent) = to_current(Some("one@example.com"), 11);
    assert!(matches!(home.put(&asked).await, PutLink::Stored(_)));
    // Another wish between the letter and the click, and one between the wish and its letter.
    home.wants(&ann, "two@example.com", Consent::Both, 12).await;
    assert_eq!(home.use_sent(sent, Purpose::EmailChangeCurrent, 13).await, UseLink::Refused);
    let (late, _) = to_current(Some("one@example.com"), 11);
    assert_eq!(home.put(&late).await, PutLink::NoUser);
    for named in [Some("TWO@example.com"), None] {
        let (asked, _) = to_current(named, 14);
        assert!(matches!(home.put(&asked).await, PutLink::Stored(_)), "{named:?}");
    }
}

async fn a_repeated_confirmation_brings_the_password_of_the_sign_up(home: Home) {
    let (ann, first) = sign_up(&home, "ann@example.com", "ann", 0).await;
    // Two days later the first link has expired and was swept, but for what it holds.
    home.store.prune(at(2 * DAY)).await.unwrap();
    assert_eq!(home.use_sent(first, Purpose::Signup, 2 * DAY).await, UseLink::Refused);
    let again = home.sent(Purpose::Signup, "ann@example.com", 2 * DAY).await;
    assert_eq!(home.use_sent(first, Purpose::Signup, 2 * DAY).await, UseLink::Refused);
    let (user, _) = logged_in(home.use_sent(again, Purpose::Signup, 2 * DAY).await);
    assert_eq!(home.password(&ann).await, Some(hash("ann")));
    assert_eq!(user.user_metadata, object(json!({"of": "ann"})));
}

async fn who_proves_an_address_first_takes_the_account(home: Home) {
    for (n, purpose) in
        [Purpose::MagicLink, Purpose::Recovery, Purpose::Invite, Purpose::Signup].iter().enumerate()
    {
        // Somebody signed up with the address of another, has a session, and a mail on its way.
        let name = format!("user{n}");
        let address = format!("{name}@example.com");
        let (id, thiefs) = home.user(&name).await;
        home.wants(&id, "thief@example.com", Consent::New, 1).await;
        let wish = LinkOwner::Id(id.clone());
        let (wish, waiting) = link(wish, Purpose::EmailChangeNew, "thief@example.com", 1);
        assert!(matches!(home.put(&wish).await, PutLink::Stored(_)));

        let (mut own, sent) = link(LinkOwner::Address, *purpose, &address, 2);
        if *purpose == Purpose::Signup {
            (own.password, own.user_metadata) = (Some(hash("own")), Some(object(json!({}))));
        }
        assert!(matches!(home.put(&own).await, PutLink::Stored(_)));
        let end = home.use_sent(sent, *purpose, 3).await;
        let UseLink::LoggedIn { user, session, ended, .. } = end else { panic!("{end:?}") };
        assert_eq!(user.email_confirmed_at, Some(at(3)));
        assert_eq!((user.new_email, user.user_metadata.len()), (None, 0));
        assert_eq!(home.password(&id).await, None, "{purpose:?}");
        assert_eq!(ended.iter().map(|e| e.id).collect::<Vec<_>>(), [thiefs.session.id]);
        assert!(home.revoked(3).await.contains(&thiefs.session.id));
        let over = home.store.refresh(&rotation(thiefs.refresh, 4)).await.unwrap();
        assert_eq!(over, Refresh::Ended(EndReason::AddressProved));
        let living = home.store.sessions_of(&id, at(4)).await.unwrap();
        assert_eq!(living.iter().map(|s| s.id).collect::<Vec<_>>(), [session.id]);
        let late = home.use_sent(waiting, Purpose::EmailChangeNew, 4).await;
        assert_eq!(late, UseLink::Refused);
    }
}

async fn a_plain_confirmation_changes_nothing_else(home: Home) {
    // Signed up and logged in at once, as where confirmation is not demanded.
    let (ann, first) = home.user("ann").await;
    let sent = home.sent(Purpose::Signup, "ann@example.com", 1).await;
    let end = home.use_sent(sent, Purpose::Signup, 2).await;
    let UseLink::LoggedIn { user, ended, .. } = end else { panic!("{end:?}") };
    assert_eq!((user.email_confirmed_at, ended.len()), (Some(at(2)), 0));
    assert_eq!(user.user_metadata, object(json!({"name": "ann"})));
    assert_eq!(home.password(&ann).await, Some(hash("first")));
    let living = home.store.refresh(&rotation(first.refresh, 3)).await.unwrap();
    assert!(matches!(living, Refresh::Rotated { .. }), "{living:?}");
}

async fn proved_addresses_are_not_confirmed_again(home: Home) {
    let (ann, first) = sign_up(&home, "ann@example.com", "late", 0).await;
    home.confirm(&ann).await;
    assert_eq!(home.use_sent(first, Purpose::Signup, 2).await, UseLink::Refused);
    assert_eq!(home.refusal().await, "already_confirmed");
    assert_eq!(home.password(&ann).await, None, "somebody may have waited for this");
}

async fn disabled_users_get_and_use_no_links(home: Home) {
    let (ann, _) = home.confirmed("ann").await;
    let sent = home.sent(Purpose::Recovery, "ann@example.com", 0).await;
    let disabled = event(EventKind::UserDisabled, 1);
    home.store.disable(&ann, at(100), at(1), &disabled).await.unwrap();
    assert_eq!(home.use_sent(sent, Purpose::Recovery, 99).await, UseLink::Refused);
    assert_eq!(home.refusal().await, "user_disabled");
    let (link, _) = link(LinkOwner::Address, Purpose::Recovery, "ann@example.com", 99);
    assert_eq!(home.put(&link).await, PutLink::Disabled);
    logged_in(home.use_sent(sent, Purpose::Recovery, 100).await);
}

// The example of RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// Uses a magic link that was asked for with a challenge; the code that it leaves.
async fn pkce_code(home: &Home, method: ChallengeMethod, text: &str, second: i64) -> TokenDigest {
    let (mut link, sent) = link(LinkOwner::Address, Purpose::MagicLink, "ann@example.com", second);
    link.challenge = Some(Challenge::new(method, text).unwrap());
    assert!(matches!(home.put(&link).await, PutLink::Stored(_)));
    let code = PkceCode { digest: digest(), expires_at: at(second + 300) };
    let form = LinkUse { pkce: Some(code), ..link_use(shown(sent, &[Purpose::MagicLink]), second) };
    let end = home.store.use_link(&form).await.unwrap();
    let UseLink::PkceCode { user, purpose, redirect_to, ended } = end else { panic!("{end:?}") };
    assert_eq!((user.email.as_str(), purpose), ("ann@Example.com", Purpose::MagicLink));
    assert_eq!(redirect_to.as_deref(), Some("https://app.example/in"));
    assert!(ended.is_empty());
    assert!(home.store.session(&form.session.id).await.unwrap().is_none(), "not without verifier");
    assert_eq!(home.use_sent(sent, Purpose::MagicLink, second).await, UseLink::Refused);
    code.digest
}

async fn trade(home: &Home, code: TokenDigest, verifier: &str, second: i64) -> TradePkce {
    let (session, used) = (new_session(second), event(EventKind::LinkUsed, second));
    home.store.trade_pkce(code, verifier, &session, at(second), &used).await.unwrap()
}

async fn a_link_of_a_client_with_a_challenge_leaves_a_code(home: Home) {
    let (ann, _) = home.confirmed("ann").await;
    for (method, text) in [(ChallengeMethod::S256, CHALLENGE), (ChallengeMethod::Plain, VERIFIER)] {
        let code = pkce_code(&home, method, text, 10).await;
        let end = trade(&home, code, VERIFIER, 11).await;
        let TradePkce::LoggedIn { user, session, .. } = end else { panic!("{end:?}") };
        assert_eq!((user.id, user.last_sign_in_at), (ann.clone(), Some(at(11))));
        assert_eq!(session.methods, [Proof::new(AuthMethod::Otp, at(11))]);
        assert_eq!(home.store.session(&session.id).await.unwrap(), Some(session));
        assert_eq!(trade(&home, code, VERIFIER, 11).await, TradePkce::NotFound);
        // The code is no link.
        let sent = Sent { token: code, code: [0; 32] };
        assert_eq!(home.use_sent(sent, Purpose::MagicLink, 11).await, UseLink::Refused);
    }
    // Whoever has the mail and asks for no code gets the session.
    let (mut link, sent) = link(LinkOwner::Address, Purpose::MagicLink, "ann@example.com", 20);
    link.challenge = Some(Challenge::new(ChallengeMethod::S256, CHALLENGE).unwrap());
    home.put(&link).await;
    logged_in(home.use_sent(sent, Purpose::MagicLink, 21).await);
    // And a link without a challenge leaves none.
    let sent = home.sent(Purpose::MagicLink, "ann@example.com", 30).await;
    let code = Some(PkceCode { digest: digest(), expires_at: at(300) });
    let form = LinkUse { pkce: code, ..link_use(shown(sent, &[Purpose::MagicLink]), 31) };
    logged_in(home.store.use_link(&form).await.unwrap());
}

/// However a session begins, no more run than may.
async fn sessions_begun_by_links_are_too_many_too(home: Home) {
    let (ann, first) = home.confirmed("ann").await;
    let most = NonZeroU32::new(1);
    let sent = home.sent(Purpose::MagicLink, "ann@example.com", 10).await;
    let begun = NewSession { max_sessions: most, ..new_session(11) };
    let used =
        LinkUse { session: begun.clone(), ..link_use(shown(sent, &[Purpose::MagicLink]), 11) };
    let end = home.store.use_link(&used).await.unwrap();
    let UseLink::LoggedIn { ended, .. } = end else { panic!("{end:?}") };
    assert_eq!(ended.iter().map(|s| s.id).collect::<Vec<_>>(), [first.session.id]);

    let code = pkce_code(&home, ChallengeMethod::S256, CHALLENGE, 20).await;
    let session = NewSession { max_sessions: most, ..new_session(21) };
    let traded = event(EventKind::LinkUsed, 21);
    let end = home.store.trade_pkce(code, VERIFIER, &session, at(21), &traded).await.unwrap();
    let TradePkce::LoggedIn { ended, .. } = end else { panic!("{end:?}") };
    assert_eq!(ended.iter().map(|s| s.id).collect::<Vec<_>>(), [begun.id]);
    assert_eq!(home.store.sessions_of(&ann, at(22)).await.unwrap().len(), 1);
    let kinds = home.kinds().await;
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::SessionsTrimmed).count(), 2);
}

async fn codes_of_links_are_traded_with_their_verifier_or_lost(home: Home) {
    let (ann, _) = home.confirmed("ann").await;
    let s256 = ChallengeMethod::S256;
    let code = pkce_code(&home, s256, CHALLENGE, 10).await;
    assert_eq!(trade(&home, digest(), VERIFIER, 11).await, TradePkce::NotFound);
    // The challenge itself is what an eavesdropper has.
    assert_eq!(trade(&home, code, CHALLENGE, 11).await, TradePkce::WrongVerifier);
    assert_eq!(home.refusal().await, "wrong_verifier");
    assert_eq!(trade(&home, code, VERIFIER, 11).await, TradePkce::NotFound);

    let code = pkce_code(&home, s256, CHALLENGE, 20).await;
    assert_eq!(trade(&home, code, VERIFIER, 320).await, TradePkce::Expired);
    assert_eq!(trade(&home, code, VERIFIER, 21).await, TradePkce::NotFound);

    let code = pkce_code(&home, s256, CHALLENGE, 30).await;
    let newest = pkce_code(&home, s256, CHALLENGE, 31).await;
    assert_eq!(trade(&home, code, VERIFIER, 32).await, TradePkce::NotFound);
    let disabled = event(EventKind::UserDisabled, 33);
    home.store.disable(&ann, at(100), at(33), &disabled).await.unwrap();
    assert_eq!(trade(&home, newest, VERIFIER, 34).await, TradePkce::Expired);
    assert_eq!(home.refusal().await, "user_disabled");
    // A link without a challenge is no code.
    home.store.enable(&ann, at(35), &event(EventKind::UserEnabled, 35)).await.unwrap();
    let sent = home.sent(Purpose::MagicLink, "ann@example.com", 36).await;
    assert_eq!(trade(&home, sent.token, VERIFIER, 37).await, TradePkce::NotFound);
    assert!(home.store.sessions_of(&ann, at(37)).await.unwrap().is_empty());
    logged_in(home.use_sent(sent, Purpose::MagicLink, 37).await);
}

async fn of_sixteen_trades_of_one_code_one_wins(home: Home) {
    home.confirmed("ann").await;
    let code = pkce_code(&home, ChallengeMethod::S256, CHALLENGE, 0).await;
    let trades = |_| trade(&home, code, VERIFIER, 1);
    assert_eq!(winners(trades, |end| matches!(end, TradePkce::LoggedIn { .. })).await, 1);
}

/// A link for each side of the change that the user wants.
async fn sides(home: &Home, user: &UserId, current: &str, new: &str, second: i64) -> [Sent; 2] {
    let owner = LinkOwner::Id(user.clone());
    let (one, one_sent) = link(owner.clone(), Purpose::EmailChangeCurrent, current, second);
    let (two, two_sent) = link(owner, Purpose::EmailChangeNew, new, second);
    for link in [one, two] {
        let put = home.put(&link).await;
        assert!(matches!(put, PutLink::Stored(_)), "{put:?}");
    }
    [one_sent, two_sent]
}

async fn both_addresses_agree_to_a_change_in_any_order(home: Home) {
    let sides_of = [Purpose::EmailChangeCurrent, Purpose::EmailChangeNew];
    for (name, order) in [("ann", [0, 1]), ("bob", [1, 0])] {
        let (id, first) = home.confirmed(name).await;
        let (current, new) = (format!("{name}@example.com"), format!("{name}@New.example"));
        home.wants(&id, &new, Consent::Both, 10).await;
        let sent = sides(&home, &id, &current, &new, 11).await;
        let waiting = home.sent(Purpose::Recovery, &current, 11).await;

        let half = home.use_shown(shown(sent[order[0]], &sides_of), 12).await;
        let UseLink::HalfDone { user, redirect_to } = half else { panic!("{half:?}") };
        assert_eq!(user.new_email.as_deref(), Some(new.as_str()));
        assert_eq!(redirect_to.as_deref(), Some("https://app.example/in"));
        let again = home.use_shown(shown(sent[order[0]], &sides_of), 12).await;
        assert_eq!(again, UseLink::Refused, "the same side twice is not two sides");
        // Nor is a new letter to that side.
        let address = [&current, &new][order[0]];
        let (repeated, _) = link(LinkOwner::Id(id.clone()), sides_of[order[0]], address, 12);
        assert_eq!(home.put(&repeated).await, PutLink::NoUser);
        assert_eq!(home.found(&id).await.email, format!("{name}@Example.com"));

        let whole = home.use_shown(shown(sent[order[1]], &sides_of), 13).await;
        let (user, session) = logged_in(whole);
        assert_eq!((user.email.as_str(), user.new_email), (new.as_str(), None));
        assert_eq!(user.email_confirmed_at, Some(at(13)));
        assert_eq!(session.methods[0].method, AuthMethod::EmailChange);
        let by_new = home.store.account_by_email(&email(&new)).await.unwrap();
        assert_eq!(by_new.map(|account| account.user.id), Some(id.clone()));
        assert!(home.store.account_by_email(&email(&current)).await.unwrap().is_none());
        assert_eq!(home.use_sent(waiting, Purpose::Recovery, 14).await, UseLink::Refused);
        let living = home.store.refresh(&rotation(first.refresh, 14)).await.unwrap();
        assert!(matches!(living, Refresh::Rotated { .. }), "the user stays logged in");
        let events = home.store.events_of_user(&id, 20, None).await.unwrap();
        let changed = events.iter().filter(|e| e.event.kind == EventKind::EmailChanged);
        assert_eq!(changed.count(), 1);
        let used = events.iter().filter(|e| e.event.kind == EventKind::LinkUsed);
        assert_eq!(used.count(), 2);

        // The former address is told.
        let lease = Duration::from_secs(30);
        let told = home.store.claim(ParcelKind::Mail, at(13), lease, 10).await.unwrap();
        let [told] = told.as_slice() else { panic!("{told:?}") };
        let Some(Parcel::Mail(letter)) = &told.parcel else { panic!("{told:?}") };
        assert_eq!(letter.kind, LetterKind::EmailChanged);
        assert_eq!(letter.email.address(), format!("{name}@Example.com"));
        assert_eq!(letter.new_email, Some(email(&new)));
        assert_eq!(letter.user_id, Some(id));
        home.store.sent(told.id, None).await.unwrap();
    }
}

async fn the_new_address_alone_agrees_where_that_will_do(home: Home) {
    let (ann, _) = home.confirmed("ann").await;
    home.wants(&ann, "new@example.com", Consent::New, 10).await;
    let owner = LinkOwner::Id(ann.clone());
    let (unasked, _) = link(owner.clone(), Purpose::EmailChangeCurrent, "ann@example.com", 11);
    assert_eq!(home.put(&unasked).await, PutLink::NoUser);
    let (asked, sent) = link(owner, Purpose::EmailChangeNew, "new@example.com", 11);
    home.put(&asked).await;
    // By its code, which goes with the new address.
    let silent = LinkUse {
        notify_former_address: false,
        ..link_use(shown_code(sent, "new@example.com", Purpose::EmailChangeNew), 12)
    };
    let (user, _) = logged_in(home.store.use_link(&silent).await.unwrap());
    assert_eq!(user.email, "new@example.com");
    assert!(home.store.outbox_state().await.unwrap().is_empty());
}

async fn an_address_that_was_taken_meanwhile_stays_with_its_owner(home: Home) {
    let (ann, _) = home.confirmed("ann").await;
    home.wants(&ann, "bob@example.com", Consent::Both, 10).await;
    let [current, new] = sides(&home, &ann, "ann@example.com", "bob@example.com", 11).await;
    let (bob, _) = home.user("bob").await;
    let half = home.use_sent(current, Purpose::EmailChangeCurrent, 12).await;
    assert!(matches!(half, UseLink::HalfDone { .. }), "{half:?}");
    let end = home.use_sent(new, Purpose::EmailChangeNew, 13).await;
    assert_eq!(end, UseLink::EmailTaken);
    assert_eq!(home.refusal().await, "email_exists");
    assert_eq!(home.kinds().await[0], EventKind::EmailChangeFailed);
    let user = home.found(&ann).await;
    assert_eq!((user.email.as_str(), user.new_email), ("ann@Example.com", None));
    assert_eq!(home.found(&bob).await.email, "bob@Example.com");
    assert_eq!(home.use_sent(new, Purpose::EmailChangeNew, 14).await, UseLink::Refused);

    // Who asks for an address that is taken already gets no link; its owner may be told.
    home.wants(&ann, "bob@example.com", Consent::New, 20).await;
    let (late, _) =
        link(LinkOwner::Id(ann.clone()), Purpose::EmailChangeNew, "bob@example.com", 21);
    let put = home.put(&late).await;
    assert!(matches!(&put, PutLink::AddressTaken(user) if user.id == bob), "{put:?}");
}

async fn of_two_users_who_prove_one_address_one_has_it(home: Home) {
    for round in 0..10 {
        let address = format!("wanted{round}@example.com");
        let mut sent = Vec::new();
        for name in ["ann", "bob", "carol"] {
            let (id, _) = home.confirmed(&format!("{name}{round}")).await;
            home.wants(&id, &address, Consent::New, 10).await;
            let owner = LinkOwner::Id(id);
            let (link, one) = link(owner, Purpose::EmailChangeNew, &address, 11);
            assert!(matches!(home.put(&link).await, PutLink::Stored(_)));
            sent.push(one);
        }
        let uses = sent.into_iter().map(|one| home.use_sent(one, Purpose::EmailChangeNew, 12));
        let ends = futures_util::future::join_all(uses).await;
        let won = ends.iter().filter(|end| matches!(end, UseLink::LoggedIn { .. })).count();
        let lost = ends.iter().filter(|end| **end == UseLink::EmailTaken).count();
        assert_eq!((won, lost), (1, 2), "{ends:?}");
    }
}

async fn an_older_wish_for_an_address_is_void(home: Home) {
    let (ann, _) = home.confirmed("ann").await;
    home.wants(&ann, "one@example.com", Consent::Both, 10).await;
    let [current, new] = sides(&home, &ann, "ann@example.com", "one@example.com", 11).await;
    let half = home.use_sent(current, Purpose::EmailChangeCurrent, 12).await;
    assert!(matches!(half, UseLink::HalfDone { .. }), "{half:?}");

    home.wants(&ann, "two@example.com", Consent::Both, 13).await;
    assert_eq!(home.use_sent(new, Purpose::EmailChangeNew, 14).await, UseLink::Refused);
    let (late, _) =
        link(LinkOwner::Id(ann.clone()), Purpose::EmailChangeNew, "one@example.com", 14);
    assert_eq!(home.put(&late).await, PutLink::NoUser);
    // What the current address agreed to was the other wish.
    let [_, new] = sides(&home, &ann, "ann@example.com", "two@example.com", 15).await;
    let half = home.use_sent(new, Purpose::EmailChangeNew, 16).await;
    assert!(matches!(half, UseLink::HalfDone { .. }), "{half:?}");
}

/// A code to reauthenticate this session.
async fn nonce(home: &Home, user: &UserId, session: Uuid, second: i64) -> CodeMac {
    let owner = LinkOwner::Id(user.clone());
    let (mut link, sent) = link(owner, Purpose::Reauthentication, "ann@example.com", second);
    link.session_id = Some(session);
    assert!(matches!(home.put(&link).await, PutLink::Stored(_)));
    // Neither its link nor its code logs anybody in.
    let all = Purpose::ALL;
    assert_eq!(home.use_shown(shown(sent, all), second).await, UseLink::Refused);
    let code = shown_code(sent, "ann@example.com", Purpose::Reauthentication);
    assert_eq!(home.use_shown(code, second).await, UseLink::Refused);
    sent.code
}

fn with_nonce(code: CodeMac, session: Uuid, password: &str) -> UserUpdate {
    UserUpdate {
        nonce: Some(code),
        keep_session: session,
        aal: Aal::One,
        sign_out_others: true,
        new_password: Some((hash(password), None)),
        ..update()
    }
}

async fn a_nonce_is_checked_often_and_used_once(home: Home) {
    let (ann, first) = home.confirmed("ann").await;
    let (bob, _) = home.confirmed("bob").await;
    let session = first.session.id;
    let code = nonce(&home, &ann, session, 10).await;
    let check = async |user: &UserId, session: Uuid, code: CodeMac, second: i64| {
        home.store.check_nonce(user, &session, code, at(second)).await.unwrap()
    };
    assert!(check(&ann, session, code, 11).await);
    assert!(check(&ann, session, code, 12).await);
    assert!(!check(&bob, session, code, 12).await, "somebody else's");
    assert!(!check(&ann, Uuid::nil(), code, 12).await, "another session's");
    assert!(!check(&ann, session, code, 10 + HOUR).await, "expired");

    let other = super::login(&ann, 13);
    let entered = event(EventKind::Login, 13);
    home.store.log_in(&ann, &hash("first"), None, &other, &entered).await.unwrap();
    let foreign = with_nonce(code, other.session.id, "second");
    assert_eq!(home.change(&ann, foreign, 13).await, UpdateUser::NonceRefused);
    let wrong = with_nonce([7; 32], session, "second");
    assert_eq!(home.change(&ann, wrong, 13).await, UpdateUser::NonceRefused);
    assert_eq!(home.password(&ann).await, Some(hash("first")));
    let done = home.change(&ann, with_nonce(code, session, "second"), 14).await;
    assert!(matches!(done, UpdateUser::Done { .. }), "{done:?}");
    assert_eq!(home.password(&ann).await, Some(hash("second")));
    let again = home.change(&ann, with_nonce(code, session, "third"), 15).await;
    assert_eq!(again, UpdateUser::NonceRefused);
    assert!(!check(&ann, session, code, 15).await);

    let code = nonce(&home, &ann, session, 20).await;
    for _ in 0..5 {
        assert!(!check(&ann, session, [7; 32], 21).await);
    }
    assert!(!check(&ann, session, code, 21).await, "the right one, too late");
}

async fn of_sixteen_uses_of_one_nonce_one_wins(home: Home) {
    let (ann, first) = home.confirmed("ann").await;
    let session = first.session.id;
    let code = nonce(&home, &ann, session, 0).await;
    let changes = |n: usize| {
        let update = with_nonce(code, session, &format!("password{n}"));
        let (home, ann) = (&home, ann.clone());
        async move { home.change(&ann, update, 1).await }
    };
    assert_eq!(winners(changes, |end| matches!(end, UpdateUser::Done { .. })).await, 1);
}

async fn a_new_password_ends_every_link(home: Home) {
    let (ann, first) = home.confirmed("ann").await;
    let (other, _) = home.confirmed("bob").await;
    let bobs = home.sent(Purpose::Recovery, "bob@example.com", 0).await;
    home.wants(&ann, "new@example.com", Consent::New, 0).await;
    let owner = LinkOwner::Id(ann.clone());
    let (wish, wish_sent) = link(owner, Purpose::EmailChangeNew, "new@example.com", 1);
    home.put(&wish).await;
    let recovery = home.sent(Purpose::Recovery, "ann@example.com", 1).await;
    let code = pkce_code(&home, ChallengeMethod::S256, CHALLENGE, 1).await;

    let told = NewParcel {
        id: Uuid::from_u128(1),
        parcel: letter(LetterKind::PasswordChanged, "ann@example.com"),
        at: at(2),
    };
    let change = UserUpdate {
        new_password: Some((hash("second"), Some(hash("first")))),
        keep_session: first.session.id,
        aal: Aal::One,
        sign_out_others: true,
        parcels: vec![told.clone()],
        ..update()
    };
    let stale = Some((hash("second"), Some(hash("other"))));
    let refused = UserUpdate { new_password: stale, ..change.clone() };
    let refused = home.change(&ann, refused, 2).await;
    assert_eq!(refused, UpdateUser::PasswordChangedMeanwhile);
    assert!(home.store.outbox_state().await.unwrap().is_empty(), "all or nothing");

    let done = home.change(&ann, change, 2).await;
    let UpdateUser::Done { user, .. } = done else { panic!("{done:?}") };
    assert_eq!(user.new_email, None, "whoever asked for it may be why");
    assert_eq!(home.use_sent(wish_sent, Purpose::EmailChangeNew, 3).await, UseLink::Refused);
    assert_eq!(home.use_sent(recovery, Purpose::Recovery, 3).await, UseLink::Refused);
    assert_eq!(trade(&home, code, VERIFIER, 3).await, TradePkce::NotFound);
    let lease = Duration::from_secs(30);
    let claimed = home.store.claim(ParcelKind::Mail, at(3), lease, 10).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!((claimed[0].id, claimed[0].parcel.clone()), (told.id, Some(told.parcel)));
    let (user, _) = logged_in(home.use_sent(bobs, Purpose::Recovery, 3).await);
    assert_eq!(user.id, other, "those of others stay");
}

async fn links_go_with_their_account(home: Home) {
    let (ann, _) = home.confirmed("ann").await;
    let sent = home.sent(Purpose::Recovery, "ann@example.com", 0).await;
    let deleted = event(EventKind::UserDeleted, 1);
    home.store.delete_user(&ann, Deletion::Hard, at(1), &deleted).await.unwrap().unwrap();
    assert_eq!(home.use_sent(sent, Purpose::Recovery, 2).await, UseLink::Refused);
    assert_eq!(home.refusal().await, "unknown");
}

async fn what_has_expired_is_pruned(home: Home) {
    home.confirmed("ann").await;
    home.sent(Purpose::Recovery, "ann@example.com", 0).await;
    sign_up(&home, "bob@example.com", "bob", 0).await;
    assert_eq!(home.store.prune(at(HOUR)).await.unwrap(), 0);
    assert_eq!(home.store.prune(at(HOUR + 1)).await.unwrap(), 1, "the recovery");
    assert_eq!(home.store.prune(at(7 * DAY + HOUR)).await.unwrap(), 0);
    assert_eq!(
        home.store.prune(at(7 * DAY + HOUR + 1)).await.unwrap(),
        2,
        "the sign-up, all of it"
    );
}

async fn accounts_that_nobody_came_for_are_pruned(home: Home) {
    // An hour later its link expires, and a sign-up's is kept for a week more.
    let asked = async |name: &str, purpose: Purpose, second| {
        let address = format!("{name}@example.com");
        let new = LinkOwner::AddressOrNew(format!("u-{name}").parse().unwrap());
        let (mut asked, sent) = link(new, purpose, &address, second);
        asked.user_metadata = Some(object(json!({})));
        assert!(matches!(home.put(&asked).await, PutLink::Stored(_)));
        sent
    };
    asked("gone", Purpose::MagicLink, 0).await;
    asked("young", Purpose::MagicLink, 20).await;
    asked("invited", Purpose::Invite, 0).await;
    asked("role", Purpose::MagicLink, 0).await;
    let sent = asked("proved", Purpose::MagicLink, 0).await;
    asked("waiting", Purpose::MagicLink, 0).await;
    sign_up(&home, "signup@example.com", "own", 0).await;
    let id = |name: &str| format!("u-{name}").parse::<UserId>().unwrap();
    let given = event(EventKind::RolesChanged, 1);
    home.store.set_roles(&id("role"), &["admin".to_owned()], at(1), &given).await.unwrap();
    logged_in(home.use_sent(sent, Purpose::MagicLink, 1).await);
    home.sent(Purpose::Recovery, "waiting@example.com", 7 * DAY).await;
    // Imported without a password, long ago.
    let mut imported = super::account("imported");
    (imported.password_hash, imported.user.user_metadata) = (None, object(json!({})));
    home.store.sign_up(&imported, None, &event(EventKind::Signup, 0)).await.unwrap();

    let names = async || {
        let users = home.store.users(None, 100, None).await.unwrap();
        let mut names: Vec<_> =
            users.iter().map(|user| user.email.split('@').next().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    home.store.prune(at(7 * DAY)).await.unwrap();
    assert_eq!(names().await.len(), 8);
    home.store.prune(at(7 * DAY + 10)).await.unwrap();
    let left = ["imported", "invited", "proved", "role", "signup", "waiting", "young"];
    assert_eq!(names().await, left);
    home.store.prune(at(8 * DAY)).await.unwrap();
    assert_eq!(names().await, ["imported", "invited", "proved", "role"], "links are gone, too");
    // Whoever comes back begins anew.
    let (_, own) = sign_up(&home, "signup@example.com", "own", 9 * DAY).await;
    let (user, _) = logged_in(home.use_sent(own, Purpose::Signup, 9 * DAY).await);
    assert_eq!(home.password(&user.id).await, Some(hash("own")));
}

impl Home {
    async fn sign_up_from(&self, network: &str, password: &str, second: i64) {
        let parcel = letter(LetterKind::Confirmation, "ann@example.com");
        let parcel = NewParcel { id: uuid_v7(at(second)), parcel, at: at(second) };
        let (ann, from) = (email("ANN@example.com"), network.parse().unwrap());
        let attempt = SignUpAttempt::new(&ann, from, hash(password), at(second + HOUR));
        let asked = event(EventKind::ConfirmationRequested, second);
        self.store.post_sign_up(&parcel, &attempt, &asked).await.unwrap();
    }

    async fn signed_up(&self, address: &str, second: i64) -> Option<PasswordHash> {
        let (ann, from) = (email("ann@example.com"), address.parse().unwrap());
        self.store.login_state(&ann, from, at(second)).await.unwrap().signed_up
    }
}

async fn a_sign_up_is_known_in_its_network_until_its_letter_has_expired(home: Home) {
    // Without an account and with one: it is the same.
    for second in [0, 2 * HOUR] {
        home.sign_up_from("2001:db8::1", "one", second).await;
        home.sign_up_from("192.0.2.1", "other", second).await;
        home.sign_up_from("2001:db8:0:9::9", "two", second + 1).await;
        for (address, after, expected) in [
            ("2001:db8::2", 2, Some("two")),
            ("2001:db8::2", HOUR, Some("two")),
            ("2001:db8::2", HOUR + 1, None),
            ("192.0.2.99", 2, Some("other")),
            ("203.0.113.1", 2, None),
        ] {
            let found = home.signed_up(address, second + after).await;
            assert_eq!(found, expected.map(hash), "{address} {after}");
        }
        assert_eq!(home.store.prune(at(second + HOUR + 1)).await.unwrap(), 1);
        assert_eq!(home.store.prune(at(second + HOUR + 2)).await.unwrap(), 1);
        if second == 0 {
            home.user("ann").await;
        }
    }
    let kinds = home.kinds().await;
    let asked = kinds.iter().filter(|kind| **kind == EventKind::ConfirmationRequested);
    assert_eq!(asked.count(), 6);
    assert_eq!(home.store.outbox_state().await.unwrap()[0].waiting, 6);
}

async fn who_proves_the_address_has_its_sign_up_forgotten_there(home: Home) {
    home.sign_up_from("192.0.2.1", "own", 0).await;
    home.sign_up_from("203.0.113.1", "strangers", 0).await;
    let (_, sent) = sign_up(&home, "ann@example.com", "own", 1).await;
    assert_eq!(
        home.use_sent(Sent { token: digest(), ..sent }, Purpose::Signup, 2).await,
        UseLink::Refused
    );
    assert_eq!(home.signed_up("192.0.2.1", 2).await, Some(hash("own")));
    let (user, _) = logged_in(home.use_sent(sent, Purpose::Signup, 2).await);
    assert_eq!(home.signed_up("192.0.2.1", 2).await, None);
    assert_eq!(home.signed_up("203.0.113.1", 2).await, Some(hash("strangers")));
    let deleted = event(EventKind::UserDeleted, 3);
    home.store.delete_user(&user.id, Deletion::Hard, at(3), &deleted).await.unwrap().unwrap();
    assert_eq!(home.signed_up("203.0.113.1", 3).await, None, "nothing of a deleted account");
}
