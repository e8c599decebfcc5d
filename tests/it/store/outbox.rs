//! What is still to be sent.

use std::collections::HashSet;
use std::time::Duration;

use portcullis::model::{
    Challenge, ChallengeMethod, EventKind, Letter, LetterKind, LetterOrigin, clean_text,
};
use portcullis::store::{Claimed, NewParcel, OutboxState, Parcel, ParcelKind};
use serde_json::json;
use uuid::Uuid;

use super::{DAY, Home, at, event, hash, object, on_both};

on_both![
    a_parcel_comes_back_as_it_was_posted,
    a_claimed_parcel_is_left_alone_until_its_lease_is_over,
    the_oldest_are_claimed_first_and_no_more_than_asked_for,
    of_sixteen_claims_each_gets_others,
    what_was_sent_is_gone_and_told_once,
    what_was_not_sent_waits_or_is_given_up,
    one_that_nobody_understands_does_not_stop_the_others,
    what_was_given_up_is_pruned,
    posting_is_all_or_nothing,
];

const LEASE: Duration = Duration::from_secs(40);

pub(super) fn letter(kind: LetterKind, address: &str) -> Parcel {
    Parcel::Mail(Letter::new(kind, address.parse().unwrap(), LetterOrigin::default()))
}

impl Home {
    /// Posts a letter at `second`.
    async fn posted(&self, second: i64) -> Uuid {
        let id = portcullis::model::uuid_v7(at(second));
        let parcel = letter(LetterKind::Recovery, "ann@example.com");
        self.store.post(&[NewParcel { id, parcel, at: at(second) }], &[]).await.unwrap();
        id
    }

    async fn claim(&self, second: i64, limit: u32) -> Vec<Claimed> {
        self.store.claim(ParcelKind::Mail, at(second), LEASE, limit).await.unwrap()
    }

    async fn claimed_ids(&self, second: i64, limit: u32) -> Vec<Uuid> {
        self.claim(second, limit).await.into_iter().map(|claimed| claimed.id).collect()
    }
}

async fn a_parcel_comes_back_as_it_was_posted(home: Home) {
    let letter = Letter {
        kind: LetterKind::Confirmation,
        email: "Ann@Example.com".parse().unwrap(),
        user_id: Some("u-ann".parse().unwrap()),
        may_create: true,
        redirect_to: Some("https://app.example/in?a=b".to_owned()),
        challenge: Some(Challenge::new(ChallengeMethod::S256, &"c".repeat(43)).unwrap()),
        password: Some(hash("first")),
        user_metadata: Some(object(json!({"name": "Ann 🦀", "n": [1, 2.5, null]}))),
        new_email: Some("new@example.com".parse().unwrap()),
        session_id: Some(Uuid::from_u128(7)),
        new_id: Some("u-new".parse().unwrap()),
        actor: Some("u-root".to_owned()),
        asked_by: LetterOrigin {
            address: Some("192.0.2.7".parse().unwrap()),
            user_agent: Some(clean_text(b"test/1\n", 100)),
            request_id: Some("r-1".to_owned()),
        },
    };
    let parcel = Parcel::Mail(letter);
    let posted = NewParcel { id: Uuid::from_u128(9), parcel: parcel.clone(), at: at(5) };
    let asked = event(EventKind::ConfirmationRequested, 5);
    home.store.post(&[posted], &[asked]).await.unwrap();
    assert_eq!(home.kinds().await, [EventKind::ConfirmationRequested]);
    assert!(home.claim(4, 10).await.is_empty(), "not due yet");
    let want =
        Claimed { id: Uuid::from_u128(9), parcel: Some(parcel), attempt: 1, created_at: at(5) };
    assert_eq!(home.claim(5, 10).await, [want]);
}

async fn a_claimed_parcel_is_left_alone_until_its_lease_is_over(home: Home) {
    let id = home.posted(0).await;
    let other = home.another();
    assert_eq!(home.claimed_ids(10, 10).await, [id]);
    let early = other.claim(ParcelKind::Mail, at(49), LEASE, 10).await.unwrap();
    assert!(early.is_empty());
    let again = other.claim(ParcelKind::Mail, at(50), LEASE, 10).await.unwrap();
    assert_eq!(again.iter().map(|c| (c.id, c.attempt)).collect::<Vec<_>>(), [(id, 2)]);
}

async fn the_oldest_are_claimed_first_and_no_more_than_asked_for(home: Home) {
    let mut ids = Vec::new();
    for second in [0, 1, 2, 3] {
        ids.push(home.posted(second).await);
    }
    assert_eq!(home.claimed_ids(9, 3).await, ids[..3]);
    assert_eq!(home.claimed_ids(9, 3).await, ids[3..]);
    assert!(home.claim(9, 3).await.is_empty());
}

async fn of_sixteen_claims_each_gets_others(home: Home) {
    for _ in 0..40 {
        home.posted(0).await;
    }
    let stores = [&home.store, &home.another()];
    let claims = (0..16).map(|n| stores[n % 2].claim(ParcelKind::Mail, at(1), LEASE, 5));
    let claimed: Vec<_> = futures_util::future::join_all(claims)
        .await
        .into_iter()
        .flat_map(|claimed| claimed.unwrap())
        .collect();
    let ids: HashSet<_> = claimed.iter().map(|claimed| claimed.id).collect();
    assert_eq!(ids.len(), claimed.len(), "none twice");
    let rest = home.claimed_ids(1, 100).await;
    assert_eq!(ids.len() + rest.len(), 40, "none lost");
    assert!(rest.iter().all(|id| !ids.contains(id)));
}

async fn what_was_sent_is_gone_and_told_once(home: Home) {
    let id = home.posted(0).await;
    home.claim(1, 10).await;
    // Two gateways sent it, as the lease of the first was over.
    for second in [2, 3] {
        home.store.sent(id, Some(&event(EventKind::MailSent, second))).await.unwrap();
    }
    assert_eq!(home.kinds().await, [EventKind::MailSent]);
    assert!(home.claim(1000, 10).await.is_empty());
    assert!(home.store.outbox_state().await.unwrap().is_empty());
}

async fn what_was_not_sent_waits_or_is_given_up(home: Home) {
    let (one, two) = (home.posted(0).await, home.posted(1).await);
    let failed = event(EventKind::MailFailed, 2);
    assert_eq!(home.claimed_ids(1, 10).await, [one, two]);
    let why = format!("451 try\u{0} later {}", "x".repeat(1000));
    home.store.not_sent(one, Some(at(5)), &why, at(2), None).await.unwrap();
    home.store.not_sent(two, None, "550 unknown", at(2), Some(&failed)).await.unwrap();
    assert_eq!(home.kinds().await, [EventKind::MailFailed]);
    let state =
        |waiting, failed, oldest| OutboxState { kind: ParcelKind::Mail, waiting, failed, oldest };
    assert_eq!(home.store.outbox_state().await.unwrap(), [state(1, 1, Some(at(0)))]);

    assert!(home.claim(4, 10).await.is_empty());
    let again = home.claim(5, 10).await;
    assert_eq!(again.iter().map(|c| (c.id, c.attempt)).collect::<Vec<_>>(), [(one, 2)]);
    assert!(home.claim(1000, 10).await.iter().all(|c| c.id == one), "given up for good");
    home.store.not_sent(two, Some(at(6)), "again", at(6), Some(&failed)).await.unwrap();
    assert_eq!(home.kinds().await.len(), 1);
    home.store.not_sent(one, None, "too old", at(7), None).await.unwrap();
    assert_eq!(home.store.outbox_state().await.unwrap(), [state(0, 2, None)]);
    home.store.not_sent(Uuid::nil(), None, "nobody's", at(7), Some(&failed)).await.unwrap();
    assert_eq!(home.kinds().await.len(), 1, "there was nothing to give up");
}

async fn one_that_nobody_understands_does_not_stop_the_others(home: Home) {
    let strange = home.posted(0).await;
    home.sql(r#"UPDATE outbox SET payload = '{"kind": "moon_landing"}'"#).await;
    let fine = home.posted(1).await;
    let claimed = home.claim(2, 10).await;
    let found: Vec<_> = claimed.iter().map(|c| (c.id, c.parcel.is_some())).collect();
    assert_eq!(found, [(strange, false), (fine, true)]);
}

async fn what_was_given_up_is_pruned(home: Home) {
    let waiting = home.posted(0).await;
    let failed = home.posted(0).await;
    home.store.not_sent(failed, None, "550", at(10), None).await.unwrap();
    assert_eq!(home.store.prune(at(30 * DAY + 10)).await.unwrap(), 0);
    assert_eq!(home.store.prune(at(30 * DAY + 11)).await.unwrap(), 1);
    assert_eq!(home.claimed_ids(31 * DAY, 10).await, [waiting]);
}

async fn posting_is_all_or_nothing(home: Home) {
    let parcel = letter(LetterKind::Recovery, "ann@example.com");
    let one = NewParcel { id: Uuid::from_u128(1), parcel, at: at(0) };
    let asked = event(EventKind::RecoveryRequested, 0);
    let twice = [one.clone(), one];
    assert!(home.store.post(&twice, &[asked]).await.is_err());
    assert!(home.claim(9, 10).await.is_empty());
    assert!(home.kinds().await.is_empty());
}
