//! Second factors, challenges, recovery codes.

use portcullis::model::{
    Aal, AuthMethod, EndReason, EventKind, Factor, FactorKind, FactorSecret, LetterKind, Outcome,
    Purpose, TokenDigest, User, UserId,
};
use portcullis::secrets::OpenError;
use portcullis::store::{
    AddFactor, Deletion, EventFilter, FactorProof, FactorVerification, Fit, Holder, LogIn,
    NewFactor, NewLogin, OpenChallenge, Parcel, ParcelKind, Refresh, RemoveFactor, Remover,
    ReplaceRecoveryCodes, SealedColumn, Store, StoreError, UpdateUser, UserUpdate, VerifyFactor,
};
use uuid::Uuid;

use super::keys::secrets;
use super::{DAY, HOUR, Home, at, digest, event, hash, login, on_both, rotation};
use crate::harness::noted;
use crate::store::links::{update, winners};
use crate::store::sessions::expect_unfit;

on_both![
    a_factor_is_enrolled_challenged_and_verified,
    a_first_factor_ends_the_other_sessions_and_tokens,
    names_are_unique_and_factors_few,
    a_factor_is_not_verified_by_a_session_that_nobody_can_be_handed,
    unverified_factors_go_and_count_for_nothing,
    a_second_factor_needs_the_first,
    challenges_are_of_a_factor_and_a_session_and_have_an_end,
    a_step_is_used_once_and_in_order,
    of_sixteen_uses_of_one_step_one_wins,
    the_fifth_wrong_code_ends_the_challenge,
    many_wrong_codes_make_a_pause_and_no_lock,
    recovery_codes_stand_in_once,
    of_sixteen_uses_of_one_recovery_code_one_wins,
    recovery_codes_verify_nothing_new,
    a_token_from_before_the_factor_was_shown_is_worth_less,
    secrets_are_sealed,
    removing_a_factor_lowers_and_ends,
    an_administrator_removes_a_factor_and_ends_all,
    password_and_address_change_with_the_factor_only,
    who_takes_over_an_account_finds_no_factor,
    a_login_beside_a_first_factor_ends_or_waits_for_it,
    what_is_over_is_pruned,
];

/// A step that is newer than all before.
const STEP: i64 = 60_000_000;

const COLUMN: SealedColumn = SealedColumn::Factors;

impl Home {
    async fn found_user(&self, user: &UserId) -> User {
        self.store.user(user).await.unwrap().unwrap()
    }

    async fn add(&self, login: &NewLogin, name: &str, second: i64) -> AddFactor {
        let enrolled = event(EventKind::FactorEnrolled, second);
        self.store.add_factor(&holder(login, second), &factor(name), 3, &enrolled).await.unwrap()
    }

    async fn added(&self, login: &NewLogin, name: &str, second: i64) -> Factor {
        match self.add(login, name, second).await {
            AddFactor::Added(factor) => factor,
            other => panic!("{other:?}"),
        }
    }

    async fn challenged(&self, login: &NewLogin, factor: Uuid, second: i64) -> Uuid {
        let challenge = Uuid::from_bytes(portcullis::clock::random_bytes());
        let holder = holder(login, second);
        let expires_at = at(second + 300);
        assert!(self.store.challenge_factor(&holder, factor, challenge, expires_at).await.unwrap());
        challenge
    }

    /// Shows a proof, with an event of its own.
    async fn verify(&self, verification: &FactorVerification) -> VerifyFactor {
        let at = verification.event.at;
        let verification = FactorVerification {
            event: noted(EventKind::FactorVerified, at),
            ..verification.clone()
        };
        self.store.verify_factor(&verification).await.unwrap()
    }

    /// Shows a code of `step` for a fresh challenge.
    async fn show(&self, login: &NewLogin, factor: Uuid, step: i64, second: i64) -> VerifyFactor {
        let challenge = self.challenged(login, factor, second).await;
        self.verify(&verification(login, factor, challenge, code(step), second)).await
    }

    /// A user with a verified factor, and the session that has shown it; its refresh token is the
    /// new one.
    pub(super) async fn protected(&self, name: &str) -> (UserId, NewLogin, Factor) {
        let (user, mut login) = self.user(name).await;
        let factor = self.added(&login, "phone", 1).await;
        let challenge = self.challenged(&login, factor.id, 1).await;
        let shown = verification(&login, factor.id, challenge, code(STEP), 1);
        assert!(matches!(self.verify(&shown).await, VerifyFactor::Done { .. }));
        login.refresh = shown.refresh;
        (user, login, factor)
    }

    /// Another login with the password.
    async fn another_login(&self, user: &UserId, second: i64) -> NewLogin {
        let login = login(user, second);
        let logged_in = event(EventKind::Login, second);
        let done = self.store.log_in(user, &hash("first"), None, &login, &logged_in).await;
        assert!(matches!(done.unwrap(), LogIn::Done { .. }));
        login
    }

    async fn codes(&self, login: &NewLogin, second: i64) -> Vec<TokenDigest> {
        let codes = [digest(), digest()];
        let made = event(EventKind::RecoveryCodesMade, second);
        let holder = holder(login, second);
        let done = self.store.replace_recovery_codes(&holder, &codes, &made).await.unwrap();
        assert_eq!(done, ReplaceRecoveryCodes::Done);
        codes.to_vec()
    }

    /// What was posted since the last look.
    async fn letters(&self, second: i64) -> Vec<LetterKind> {
        let lease = std::time::Duration::from_hours(24);
        let claimed = self.store.claim(ParcelKind::Mail, at(second), lease, 100).await.unwrap();
        let kind = |parcel: Option<Parcel>| match parcel {
            Some(Parcel::Mail(letter)) => letter.kind,
            None => panic!("a letter that nobody understands"),
        };
        claimed.into_iter().map(|claimed| kind(claimed.parcel)).collect()
    }

    async fn failures(&self) -> Vec<String> {
        let all = self.store.events(&EventFilter::default(), 1000, None).await.unwrap();
        let mut all: Vec<_> =
            all.into_iter().filter(|stored| stored.event.kind == EventKind::FactorFailed).collect();
        all.sort_by_key(|stored| stored.number);
        assert!(all.iter().all(|stored| stored.event.outcome == Outcome::Failure));
        all.into_iter().map(|stored| stored.event.reason.unwrap()).collect()
    }
}

/// With a token that is as new as what the session has shown.
fn holder(login: &NewLogin, second: i64) -> Holder {
    let (user, session) = (login.session.user_id.clone(), login.session.id);
    Holder { user, session, aal: Aal::Two, now: at(second) }
}

fn factor(name: &str) -> NewFactor {
    NewFactor {
        id: Uuid::from_bytes(portcullis::clock::random_bytes()),
        friendly_name: name.to_owned(),
        secret: FactorSecret(*b"12345678901234567890"),
    }
}

fn code(step: i64) -> FactorProof {
    FactorProof::Code(Some(step))
}

fn verification(
    login: &NewLogin,
    factor: Uuid,
    challenge: Uuid,
    proof: FactorProof,
    second: i64,
) -> FactorVerification {
    FactorVerification {
        holder: holder(login, second),
        factor,
        challenge,
        proof,
        refresh: digest(),
        access_expires_at: at(second + HOUR),
        fit: Fit::always(),
        notify: true,
        event: event(EventKind::FactorVerified, second),
    }
}

async fn a_factor_is_not_verified_by_a_session_that_nobody_can_be_handed(home: Home) {
    let (ann, login) = home.user("ann").await;
    let other = home.another_login(&ann, 1).await;
    let phone = home.added(&login, "phone", 2).await;
    let challenge = home.challenged(&login, phone.id, 3).await;
    let kinds = home.kinds().await;
    let right = verification(&login, phone.id, challenge, code(STEP), 4);
    let fit = Fit::new(|user, session| {
        // As it would be afterwards: tokens say so.
        assert!(user.has_second_factor() && session.aal() == Aal::Two);
        false
    });
    let tried = FactorVerification { fit, ..right.clone() };
    expect_unfit(home.store.verify_factor(&tried).await, &ann);
    assert!(!home.found_user(&ann).await.has_second_factor());
    assert_eq!(home.store.sessions_of(&ann, at(5)).await.unwrap().len(), 2);
    let next = rotation(other.refresh, 5);
    assert!(matches!(home.store.refresh(&next).await.unwrap(), Refresh::Rotated { .. }));
    assert_eq!(home.kinds().await.len(), kinds.len() + 1, "the refresh");
    assert_eq!(home.letters(5).await, []);
    // The code and its challenge are as good as before.
    assert!(matches!(home.verify(&right).await, VerifyFactor::Done { .. }));
}

async fn a_factor_is_enrolled_challenged_and_verified(home: Home) {
    let (ann, login) = home.user("ann").await;
    let phone = home.added(&login, "Ann's \"phone\" 🦀", 1).await;
    assert_eq!((phone.kind, phone.verified_at, phone.created_at), (FactorKind::Totp, None, at(1)));
    let found = home.found_user(&ann).await;
    assert_eq!(found.factors, std::slice::from_ref(&phone));
    assert!(!found.has_second_factor());
    let listed = home.store.users(None, 10, None).await.unwrap();
    assert_eq!(listed[0].factors, found.factors);

    let challenge = home.challenged(&login, phone.id, 2).await;
    let open = home.store.challenge(&holder(&login, 2), phone.id, challenge).await.unwrap();
    assert_eq!(open, OpenChallenge::Open(FactorSecret(*b"12345678901234567890")));
    let shown = verification(&login, phone.id, challenge, code(STEP), 3);
    let VerifyFactor::Done { user, session, ended } = home.verify(&shown).await else {
        panic!("the code is right");
    };
    assert!(ended.is_empty());
    let verified = Factor {
        verified_at: Some(at(3)),
        last_challenged_at: Some(at(2)),
        updated_at: at(3),
        ..phone.clone()
    };
    assert_eq!(user.factors, [verified]);
    assert!(user.has_second_factor());
    assert_eq!((session.id, session.factor_id), (login.session.id, Some(phone.id)));
    assert_eq!(session.aal(), Aal::Two);
    let methods: Vec<_> = session.methods.iter().map(|p| (p.method, p.timestamp)).collect();
    let (then, now) = (at(0).as_second(), at(3).as_second());
    assert_eq!(methods, [(AuthMethod::Totp, now), (AuthMethod::Password, then)]);
    assert_eq!(session.access_expires_at, at(3 + HOUR));
    assert_eq!(home.store.session(&session.id).await.unwrap(), Some(*session));
    assert_eq!(home.letters(3).await, [LetterKind::FactorAdded]);

    // The level stays over refreshes; showing the factor again is no news.
    let refreshed = home.store.refresh(&rotation(shown.refresh, 10)).await.unwrap();
    let Refresh::Rotated { user, session } = refreshed else { panic!("{refreshed:?}") };
    assert!(user.has_second_factor() && session.aal() == Aal::Two);
    assert!(matches!(home.show(&login, phone.id, STEP + 1, 11).await, VerifyFactor::Done { .. }));
    assert_eq!(home.letters(11).await, []);
    let kinds = home.kinds().await;
    assert_eq!(
        kinds.iter().filter(|kind| **kind == EventKind::FactorVerified).count(),
        2,
        "{kinds:?}"
    );
    assert!(kinds.contains(&EventKind::FactorEnrolled));
}

async fn a_first_factor_ends_the_other_sessions_and_tokens(home: Home) {
    let (ann, login) = home.user("ann").await;
    let other = home.another_login(&ann, 1).await;
    let stolen = login.refresh;
    let phone = home.added(&login, "", 2).await;
    let challenge = home.challenged(&login, phone.id, 2).await;
    let shown = verification(&login, phone.id, challenge, code(STEP), 3);
    let VerifyFactor::Done { ended, .. } = home.verify(&shown).await else {
        panic!("the code is right");
    };
    assert_eq!(ended.iter().map(|e| e.id).collect::<Vec<_>>(), [other.session.id]);
    assert_eq!(home.revoked(3).await, [other.session.id]);
    let refused = home.store.refresh(&rotation(other.refresh, 4)).await.unwrap();
    assert_eq!(refused, Refresh::Ended(EndReason::FactorChanged));
    // A token that was stolen before must not become worth more.
    let refused = home.store.refresh(&rotation(stolen, 4)).await.unwrap();
    assert_eq!(refused, Refresh::NotFound);
    let refreshed = home.store.refresh(&rotation(shown.refresh, 4)).await.unwrap();
    assert!(matches!(refreshed, Refresh::Rotated { .. }));

    // A later login lives beside it, at its own level, and so does it when the factor is shown.
    let third = home.another_login(&ann, 5).await;
    let done = home.show(&third, phone.id, STEP + 1, 6).await;
    let VerifyFactor::Done { ended, .. } = done else { panic!("{done:?}") };
    assert!(ended.is_empty());
    assert_eq!(home.store.sessions_of(&ann, at(6)).await.unwrap().len(), 2);
}

async fn names_are_unique_and_factors_few(home: Home) {
    let (_, login) = home.user("ann").await;
    let (_, bob) = home.user("bob").await;
    home.added(&login, "phone", 1).await;
    home.added(&bob, "phone", 1).await;
    assert_eq!(home.add(&login, "phone", 1).await, AddFactor::NameTaken);
    home.added(&login, "", 1).await;
    home.added(&login, "", 1).await;
    assert_eq!(home.add(&login, "tablet", 1).await, AddFactor::TooMany);
    // After ten minutes nobody will scan them any more.
    home.added(&login, "phone", 602).await;
    assert_eq!(home.found_user(&login.session.user_id).await.factors.len(), 1);
    let kinds = home.kinds().await;
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::FactorEnrolled).count(), 5);

    let gone = NewLogin { session: super::login(&login.session.user_id, 1).session, ..login };
    assert_eq!(home.add(&gone, "", 603).await, AddFactor::NoSession);
}

async fn unverified_factors_go_and_count_for_nothing(home: Home) {
    let (ann, login) = home.user("ann").await;
    let lurking = home.added(&login, "somebody else's", 1).await;
    let challenge = home.challenged(&login, lurking.id, 1).await;
    // Without it being verified, a password is enough for everything.
    let login_two = home.another_login(&ann, 2).await;
    let phone = home.added(&login_two, "phone", 3).await;
    assert!(matches!(home.show(&login_two, phone.id, STEP, 4).await, VerifyFactor::Done { .. }));
    assert_eq!(home.found_user(&ann).await.factors.len(), 1, "the other one is gone");
    let late = verification(&login, lurking.id, challenge, code(STEP), 5);
    assert_eq!(home.verify(&late).await, VerifyFactor::NoSession);
}

async fn a_second_factor_needs_the_first(home: Home) {
    let (ann, login, phone) = home.protected("ann").await;
    let weak = home.another_login(&ann, 10).await;
    assert_eq!(home.add(&weak, "mine", 11).await, AddFactor::NeedsAal2);
    let tablet = home.added(&login, "tablet", 11).await;
    assert_eq!(home.show(&weak, tablet.id, STEP, 12).await, VerifyFactor::NeedsAal2);
    let done = home.show(&login, tablet.id, STEP, 12).await;
    let VerifyFactor::Done { session, ended, .. } = done else { panic!("{done:?}") };
    assert_eq!((session.factor_id, ended.len()), (Some(tablet.id), 0), "it is not the first");
    let done = home.show(&weak, tablet.id, STEP + 1, 13).await;
    let VerifyFactor::Done { session, user, .. } = done else { panic!("{done:?}") };
    assert_eq!(session.factor_id, Some(tablet.id));
    let names: Vec<_> = user.factors.iter().map(|factor| factor.id).collect();
    assert_eq!(names, [phone.id, tablet.id], "oldest first");
}

async fn challenges_are_of_a_factor_and_a_session_and_have_an_end(home: Home) {
    let (ann, login, phone) = home.protected("ann").await;
    let tablet = home.added(&login, "tablet", 2).await;
    let other = home.another_login(&ann, 2).await;
    let (_, bob, bobs) = home.protected("bob").await;
    let challenge = home.challenged(&login, phone.id, 10).await;
    let unknown = Uuid::from_u128(7);

    for (who, factor, challenge, second, expected) in [
        (&login, phone.id, unknown, 11, VerifyFactor::NoChallenge),
        (&login, tablet.id, challenge, 11, VerifyFactor::NoChallenge),
        (&login, unknown, challenge, 11, VerifyFactor::NoFactor),
        (&login, bobs.id, challenge, 11, VerifyFactor::NoFactor),
        (&other, phone.id, challenge, 11, VerifyFactor::NoChallenge),
        (&bob, phone.id, challenge, 11, VerifyFactor::NoFactor),
        (&login, phone.id, challenge, 310, VerifyFactor::NoChallenge),
    ] {
        let shown = verification(who, factor, challenge, code(STEP + 1), second);
        assert_eq!(home.verify(&shown).await, expected);
        let open = home.store.challenge(&holder(who, second), factor, challenge).await.unwrap();
        let expected = match expected {
            VerifyFactor::NoFactor => OpenChallenge::NoFactor,
            _ => OpenChallenge::NoChallenge,
        };
        assert_eq!(open, expected);
    }
    assert!(home.failures().await.is_empty(), "nobody guessed");
    for (who, factor) in [(&login, unknown), (&bob, phone.id)] {
        let holder = holder(who, 12);
        let made = home.store.challenge_factor(&holder, factor, Uuid::nil(), at(300)).await;
        assert!(!made.unwrap());
    }
    let shown = verification(&login, phone.id, challenge, code(STEP + 1), 309);
    assert!(matches!(home.verify(&shown).await, VerifyFactor::Done { .. }));
    assert_eq!(home.verify(&shown).await, VerifyFactor::NoChallenge);

    let ended = event(EventKind::Logout, 310);
    let all = portcullis::store::Sessions::All;
    let challenge = home.challenged(&login, phone.id, 310).await;
    home.store.end_sessions(&ann, all, EndReason::Logout, at(310), &ended).await.unwrap();
    let shown = verification(&login, phone.id, challenge, code(STEP + 2), 311);
    assert_eq!(home.verify(&shown).await, VerifyFactor::NoSession);
}

async fn a_step_is_used_once_and_in_order(home: Home) {
    let (_, login, phone) = home.protected("ann").await;
    for step in [STEP, STEP - 1] {
        assert_eq!(home.show(&login, phone.id, step, 2).await, VerifyFactor::Wrong);
    }
    assert!(matches!(home.show(&login, phone.id, STEP + 1, 2).await, VerifyFactor::Done { .. }));
    assert_eq!(home.show(&login, phone.id, STEP + 1, 3).await, VerifyFactor::Wrong);
    assert_eq!(home.failures().await, ["replayed", "replayed", "replayed"]);
}

async fn of_sixteen_uses_of_one_step_one_wins(home: Home) {
    let (ann, _, phone) = home.protected("ann").await;
    let mut tries = Vec::new();
    for second in 0..16 {
        let login = home.another_login(&ann, 10 + second).await;
        let challenge = home.challenged(&login, phone.id, 30).await;
        tries.push(verification(&login, phone.id, challenge, code(STEP + 5), 31));
    }
    let wins = winners(|n| home.verify(&tries[n]), |end| matches!(end, VerifyFactor::Done { .. }));
    assert_eq!(wins.await, 1);
    let failures = home.failures().await;
    assert!(failures.iter().all(|why| why == "replayed"), "{failures:?}");
}

async fn the_fifth_wrong_code_ends_the_challenge(home: Home) {
    let (_, login, phone) = home.protected("ann").await;
    let challenge = home.challenged(&login, phone.id, 2).await;
    let wrong = verification(&login, phone.id, challenge, FactorProof::Code(None), 3);
    let right = verification(&login, phone.id, challenge, code(STEP + 1), 3);
    // Sixteen guesses at once are not more than five.
    let counted = winners(|_| home.verify(&wrong), |end| *end == VerifyFactor::Wrong).await;
    assert_eq!(counted, 5);
    assert_eq!(home.verify(&right).await, VerifyFactor::NoChallenge);
    let challenge = home.challenged(&login, phone.id, 4).await;
    for _ in 0..4 {
        let wrong = FactorVerification { challenge, ..wrong.clone() };
        assert_eq!(home.verify(&wrong).await, VerifyFactor::Wrong);
    }
    let right = FactorVerification { challenge, ..right };
    assert!(matches!(home.verify(&right).await, VerifyFactor::Done { .. }));
    assert_eq!(home.failures().await, ["wrong_code"; 9]);
}

async fn many_wrong_codes_make_a_pause_and_no_lock(home: Home) {
    let (ann, login, phone) = home.protected("ann").await;
    let codes = home.codes(&login, 1).await;
    let wrong = |second| {
        let (login, home, phone) = (&login, &home, &phone);
        async move {
            let challenge = home.challenged(login, phone.id, second).await;
            let wrong = FactorProof::Code(None);
            home.verify(&verification(login, phone.id, challenge, wrong, second)).await
        }
    };
    for _ in 0..10 {
        assert_eq!(wrong(10).await, VerifyFactor::Wrong);
    }
    // Whoever comes now waits, right or wrong, whatever the session.
    let other = home.another_login(&ann, 10).await;
    for who in [&login, &other] {
        let challenge = home.challenged(who, phone.id, 39).await;
        let open = home.store.challenge(&holder(who, 39), phone.id, challenge).await.unwrap();
        assert_eq!(open, OpenChallenge::Paused(at(40)));
        let right = verification(who, phone.id, challenge, code(STEP + 1), 39);
        assert_eq!(home.verify(&right).await, VerifyFactor::Paused(at(40)));
    }
    assert_eq!(home.failures().await.len(), 10, "who waits is not counted");
    // A recovery code never waits; and what was shown ends the pause.
    assert_eq!(wrong(40).await, VerifyFactor::Wrong);
    assert_eq!(wrong(99).await, VerifyFactor::Paused(at(100)));
    let challenge = home.challenged(&other, phone.id, 99).await;
    let proof = FactorProof::RecoveryCode(codes[0]);
    let lost = verification(&other, phone.id, challenge, proof, 99);
    assert!(matches!(home.verify(&lost).await, VerifyFactor::Done { .. }));
    assert_eq!(wrong(99).await, VerifyFactor::Wrong);
}

async fn recovery_codes_stand_in_once(home: Home) {
    let (ann, login, phone) = home.protected("ann").await;
    let old = home.codes(&login, 1).await;
    let codes = home.codes(&login, 2).await;
    home.letters(1).await;
    let other = home.another_login(&ann, 3).await;
    let show = |code: TokenDigest| {
        let (other, home) = (&other, &home);
        async move {
            let challenge = home.challenged(other, phone.id, 4).await;
            let proof = FactorProof::RecoveryCode(code);
            home.verify(&verification(other, phone.id, challenge, proof, 4)).await
        }
    };
    assert_eq!(show(old[0]).await, VerifyFactor::Wrong, "replaced");
    let done = show(codes[0]).await;
    let VerifyFactor::Done { session, .. } = done else { panic!("{done:?}") };
    assert_eq!(session.aal(), Aal::Two);
    assert_eq!(session.methods[0].method, AuthMethod::RecoveryCode);
    assert_eq!(show(codes[0]).await, VerifyFactor::Wrong, "used");
    assert!(matches!(show(codes[1]).await, VerifyFactor::Done { .. }));
    assert_eq!(home.failures().await, ["wrong_recovery_code", "wrong_recovery_code"]);
    let letters = home.letters(10).await;
    let told = letters.iter().filter(|kind| **kind == LetterKind::RecoveryCodeUsed).count();
    assert_eq!(told, 2, "{letters:?}");
    let kinds = home.kinds().await;
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::RecoveryCodeUsed).count(), 2);

    let weak = home.another_login(&ann, 5).await;
    let made = event(EventKind::RecoveryCodesMade, 6);
    let refused = home.store.replace_recovery_codes(&holder(&weak, 6), &[digest()], &made).await;
    assert_eq!(refused.unwrap(), ReplaceRecoveryCodes::NeedsAal2);
    let (_, bob) = home.user("bob").await;
    let refused = home.store.replace_recovery_codes(&holder(&bob, 6), &[digest()], &made).await;
    assert_eq!(refused.unwrap(), ReplaceRecoveryCodes::NeedsAal2, "there is no factor");
}

async fn of_sixteen_uses_of_one_recovery_code_one_wins(home: Home) {
    let (ann, login, phone) = home.protected("ann").await;
    let codes = home.codes(&login, 1).await;
    let mut tries = Vec::new();
    for second in 0..16 {
        let login = home.another_login(&ann, 10 + second).await;
        let challenge = home.challenged(&login, phone.id, 30).await;
        let proof = FactorProof::RecoveryCode(codes[0]);
        tries.push(verification(&login, phone.id, challenge, proof, 31));
    }
    let wins = winners(|n| home.verify(&tries[n]), |end| matches!(end, VerifyFactor::Done { .. }));
    assert_eq!(wins.await, 1);
}

async fn recovery_codes_verify_nothing_new(home: Home) {
    let (_, login, _) = home.protected("ann").await;
    let codes = home.codes(&login, 1).await;
    let tablet = home.added(&login, "tablet", 2).await;
    let challenge = home.challenged(&login, tablet.id, 2).await;
    let proof = FactorProof::RecoveryCode(codes[0]);
    let shown = verification(&login, tablet.id, challenge, proof, 3);
    assert_eq!(home.verify(&shown).await, VerifyFactor::Wrong);
    assert!(!home.found_user(&login.session.user_id).await.factors[1].is_verified());
}

async fn a_token_from_before_the_factor_was_shown_is_worth_less(home: Home) {
    let (_, login, phone) = home.protected("ann").await;
    let tablet = home.added(&login, "tablet", 2).await;
    let stolen = Holder { aal: Aal::One, ..holder(&login, 3) };

    let enrolled = event(EventKind::FactorEnrolled, 3);
    let added = home.store.add_factor(&stolen, &factor("own"), 3, &enrolled).await.unwrap();
    assert_eq!(added, AddFactor::NeedsAal2);
    let challenge = home.challenged(&login, tablet.id, 3).await;
    let shown = verification(&login, tablet.id, challenge, code(STEP), 3);
    let shown = FactorVerification { holder: stolen.clone(), ..shown };
    assert_eq!(home.verify(&shown).await, VerifyFactor::NeedsAal2);
    let made = event(EventKind::RecoveryCodesMade, 3);
    let codes = home.store.replace_recovery_codes(&stolen, &[digest()], &made).await.unwrap();
    assert_eq!(codes, ReplaceRecoveryCodes::NeedsAal2);
    let removed = event(EventKind::FactorRemoved, 3);
    let by = Remover::Holder(stolen);
    let done = home.store.remove_factor(&by, phone.id, true, &removed).await.unwrap();
    assert_eq!(done, RemoveFactor::NeedsAal2);
}

async fn secrets_are_sealed(home: Home) {
    let (one, two) = (home.another_with(&secrets(1, &[])), home.another_with(&secrets(2, &[1])));
    let (ann, login) = home.user("ann").await;
    let mut factors = Vec::new();
    for (store, name) in [(&home.store, "plain"), (&one, "sealed")] {
        let enrolled = event(EventKind::FactorEnrolled, 1);
        let new = factor(name);
        store.add_factor(&holder(&login, 1), &new, 3, &enrolled).await.unwrap();
        factors.push((new.id, home.challenged(&login, new.id, 1).await));
    }
    let open = async |store: &Store, (factor, challenge): (Uuid, Uuid)| {
        store.challenge(&holder(&login, 2), factor, challenge).await
    };
    let secret = OpenChallenge::Open(factor("").secret);
    for store in [&one, &two] {
        for &found in &factors {
            assert_eq!(open(store, found).await.unwrap(), secret);
        }
    }
    let id = one.keyring().current().unwrap();
    let refused = open(&home.store, factors[1]).await.unwrap_err();
    let StoreError::Sealed { column, row, source } = refused else { panic!("{refused}") };
    let sealed = (COLUMN.as_str(), factors[1].0.to_string(), OpenError::UnknownKey(id));
    assert_eq!((column, row, source), sealed);
    // Whose factors there are is no secret.
    assert_eq!(home.found_user(&ann).await.factors.len(), 2);

    let noted = |second| event(EventKind::SecretsReencrypted, second);
    let page = two.reencrypt(COLUMN, None, 1, &noted(10)).await.unwrap();
    assert_eq!((page.changed, page.unreadable.len()), (1, 0));
    let rest = two.reencrypt(COLUMN, page.last.as_deref(), 9, &noted(11)).await.unwrap();
    assert_eq!((rest.changed, rest.unreadable.len()), (1, 0));
    let end = two.reencrypt(COLUMN, rest.last.as_deref(), 9, &noted(12)).await.unwrap();
    assert_eq!((end.changed, end.last), (0, None));
    for &found in &factors {
        assert_eq!(open(&two, found).await.unwrap(), secret);
        assert!(open(&one, found).await.is_err());
    }

    // A value of one row in the place of another's.
    home.sql(
        "UPDATE factors SET secret = (SELECT secret FROM factors WHERE friendly_name = 'sealed')",
    )
    .await;
    let refused = open(&two, factors[0]).await.unwrap_err();
    let StoreError::Sealed { source, .. } = refused else { panic!("{refused}") };
    assert_eq!(source, OpenError::Damaged);
}

async fn removing_a_factor_lowers_and_ends(home: Home) {
    let (ann, login, phone) = home.protected("ann").await;
    let codes = home.codes(&login, 2).await;
    home.letters(2).await;
    let strong = home.another_login(&ann, 3).await;
    assert!(matches!(home.show(&strong, phone.id, STEP + 1, 3).await, VerifyFactor::Done { .. }));
    let weak = home.another_login(&ann, 4).await;
    let tablet = home.added(&login, "tablet", 4).await;
    assert!(matches!(home.show(&login, tablet.id, STEP, 4).await, VerifyFactor::Done { .. }));
    let remove = |who: &NewLogin, factor, second| {
        let (home, by) = (&home, Remover::Holder(holder(who, second)));
        async move {
            let removed = event(EventKind::FactorRemoved, second);
            home.store.remove_factor(&by, factor, true, &removed).await.unwrap()
        }
    };
    assert_eq!(remove(&weak, phone.id, 5).await, RemoveFactor::NeedsAal2);
    assert_eq!(remove(&login, Uuid::nil(), 5).await, RemoveFactor::NoFactor);

    // The other session had shown that very factor.
    let done = remove(&login, phone.id, 6).await;
    let RemoveFactor::Done { ended } = done else { panic!("{done:?}") };
    assert_eq!(ended.iter().map(|e| e.id).collect::<Vec<_>>(), [strong.session.id]);
    let found = home.store.session(&login.session.id).await.unwrap().unwrap();
    assert_eq!(found.aal(), Aal::Two, "it has shown the other one");
    let found = home.store.session(&strong.session.id).await.unwrap().unwrap();
    assert_eq!(found.ended, Some((at(6), EndReason::FactorChanged)));

    let done = remove(&login, tablet.id, 7).await;
    assert_eq!(done, RemoveFactor::Done { ended: Vec::new() });
    let found = home.store.session(&login.session.id).await.unwrap().unwrap();
    assert_eq!((found.aal(), found.methods.len()), (Aal::One, 1));
    assert_eq!(found.methods[0].method, AuthMethod::Password);
    assert!(home.found_user(&ann).await.factors.is_empty());
    let letters = home.letters(20).await;
    let told = letters.iter().filter(|kind| **kind == LetterKind::FactorRemoved).count();
    assert_eq!(told, 2, "{letters:?}");

    // With the last factor the codes went, too.
    let again = home.added(&login, "new", 8).await;
    assert!(matches!(home.show(&login, again.id, STEP, 8).await, VerifyFactor::Done { .. }));
    let challenge = home.challenged(&login, again.id, 9).await;
    let proof = FactorProof::RecoveryCode(codes[0]);
    let shown = verification(&login, again.id, challenge, proof, 9);
    assert_eq!(home.verify(&shown).await, VerifyFactor::Wrong);

    // One that is not verified protects nothing: whoever enrolled it may remove it.
    let (_, login) = home.user("bob").await;
    let unverified = home.added(&login, "", 1).await;
    let removed = event(EventKind::FactorRemoved, 2);
    let by = Remover::Holder(Holder { aal: Aal::One, ..holder(&login, 2) });
    let done = home.store.remove_factor(&by, unverified.id, true, &removed).await;
    assert_eq!(done.unwrap(), RemoveFactor::Done { ended: Vec::new() });
}

async fn an_administrator_removes_a_factor_and_ends_all(home: Home) {
    let (ann, login, phone) = home.protected("ann").await;
    let other = home.another_login(&ann, 3).await;
    let removed = event(EventKind::FactorRemoved, 5);
    let by = Remover::Administrator(ann.clone());
    let done = home.store.remove_factor(&by, phone.id, false, &removed).await.unwrap();
    let RemoveFactor::Done { ended } = done else { panic!("{done:?}") };
    let mut ended: Vec<_> = ended.into_iter().map(|session| session.id).collect();
    let mut both = [login.session.id, other.session.id];
    ended.sort_unstable();
    both.sort_unstable();
    assert_eq!(ended, both);
    assert!(home.found_user(&ann).await.factors.is_empty());
    let again = home.store.remove_factor(&by, phone.id, false, &removed).await.unwrap();
    assert_eq!(again, RemoveFactor::NoFactor);
    let nobody = Remover::Administrator("nobody".parse().unwrap());
    let again = home.store.remove_factor(&nobody, phone.id, false, &removed).await.unwrap();
    assert_eq!(again, RemoveFactor::NoFactor);
    assert_eq!(home.letters(5).await, [LetterKind::FactorAdded], "the other was not wanted");
}

async fn password_and_address_change_with_the_factor_only(home: Home) {
    let (ann, login, _) = home.protected("ann").await;
    let weak = home.another_login(&ann, 3).await;
    let new_email = portcullis::store::NewEmail {
        email: "new@example.com".parse().unwrap(),
        consent: portcullis::store::Consent::New,
    };
    let changes = [
        UserUpdate {
            new_password: Some((hash("second"), None)),
            sign_out_others: false,
            ..update()
        },
        UserUpdate { new_email: Some(new_email), ..update() },
    ];
    for change in changes {
        for (who, aal, is_enough) in [
            (&weak, Aal::One, false),
            (&weak, Aal::Two, false),
            (&login, Aal::One, false),
            (&login, Aal::Two, true),
        ] {
            let change = UserUpdate { keep_session: who.session.id, aal, ..change.clone() };
            let updated = [event(EventKind::UserUpdated, 5)];
            let done = home.store.update_user(&ann, &change, at(5), &updated).await.unwrap();
            if is_enough {
                assert!(matches!(done, UpdateUser::Done { .. }), "{done:?}");
            } else {
                assert_eq!(done, UpdateUser::NeedsAal2);
            }
        }
    }
    let change = UserUpdate {
        metadata_patch: Some(super::object(serde_json::json!({ "theme": "dark" }))),
        keep_session: weak.session.id,
        ..update()
    };
    let done = home.store.update_user(&ann, &change, at(6), &[]).await.unwrap();
    assert!(matches!(done, UpdateUser::Done { .. }), "metadata protects nothing: {done:?}");
}

async fn who_takes_over_an_account_finds_no_factor(home: Home) {
    // Somebody signed up with an address of another, and enrolled a factor.
    let (ann, _, _) = home.protected("ann").await;
    let sent = home.sent(Purpose::MagicLink, "ann@example.com", 10).await;
    let end = home.use_sent(sent, Purpose::MagicLink, 11).await;
    let (user, session) = super::links::logged_in(end);
    assert_eq!((user.id, user.factors.len(), session.aal()), (ann.clone(), 0, Aal::One));
    assert!(home.found_user(&ann).await.factors.is_empty());
}

/// A login that runs beside the verification of a first factor is ended by it, or learns of the
/// factor: it never ends as one that needs none.
async fn a_login_beside_a_first_factor_ends_or_waits_for_it(home: Home) {
    let (ann, first) = home.user("ann").await;
    let phone = home.added(&first, "phone", 1).await;
    let challenge = home.challenged(&first, phone.id, 1).await;
    let shown = verification(&first, phone.id, challenge, code(STEP), 2);
    let logins: Vec<_> = (0..15).map(|_| login(&ann, 2)).collect();
    let store: &Store = &home.store;
    let log_in = async |login: &NewLogin| {
        let logged_in = event(EventKind::Login, 2);
        store.log_in(&ann, &hash("first"), None, login, &logged_in).await.unwrap()
    };
    let (verified, ends) = tokio::join!(
        home.verify(&shown),
        futures_util::future::join_all(logins.iter().map(log_in))
    );
    assert!(matches!(verified, VerifyFactor::Done { .. }));
    for (login, end) in logins.iter().zip(ends) {
        let LogIn::Done { user, .. } = end else { panic!("{end:?}") };
        let session = home.store.session(&login.session.id).await.unwrap().unwrap();
        assert!(
            session.ended.is_some() || user.has_second_factor(),
            "a session that runs as if there were no factor"
        );
    }
}

async fn what_is_over_is_pruned(home: Home) {
    let (ann, login, phone) = home.protected("ann").await;
    home.added(&login, "tablet", 10).await;
    home.challenged(&login, phone.id, 10).await;
    home.store.prune(at(11)).await.unwrap();
    assert_eq!(home.found_user(&ann).await.factors.len(), 2);
    let pruned = home.store.prune(at(611)).await.unwrap();
    assert_eq!(pruned, 2, "the challenge, and the factor that nobody scanned");
    assert_eq!(home.found_user(&ann).await.factors.len(), 1);
    home.store.prune(at(5 * DAY)).await.unwrap();
    assert_eq!(home.found_user(&ann).await.factors.len(), 1);
    // All goes with the account.
    home.codes(&login, 20).await;
    let deleted = event(EventKind::UserDeleted, 21);
    home.store.delete_user(&ann, Deletion::Hard, at(21), &deleted).await.unwrap().unwrap();
    home.user("ann").await;
    assert!(home.found_user(&ann).await.factors.is_empty());
}
