//! Failed logins and the lanes they count in.

use std::net::IpAddr;

use jiff::Timestamp;
use portcullis::model::{Email, EventKind, Session};
use portcullis::store::{Guard, Lane, NewLogin};

use super::{DAY, Home, at, event, hash, login, on_both};

on_both![
    a_network_is_known_by_a_session_of_the_last_thirty_days,
    failures_block_their_lane_and_no_other,
    a_login_clears_its_lane,
    failures_at_once_all_count,
    a_quiet_day_is_forgotten_and_pruned,
    guards_are_seen_and_forgotten,
];

const ELSEWHERE: &str = "192.0.2.1";

fn ann() -> Email {
    "ANN@example.com".parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Home {
    /// Lane and block of a login to the account.
    async fn state(
        &self,
        email: &Email,
        address: &str,
        second: i64,
    ) -> (String, Option<Timestamp>) {
        let state = self.store.login_state(email, ip(address), at(second)).await.unwrap();
        (state.lane.name(), state.blocked_until)
    }

    async fn fail(&self, lane: &Lane, second: i64, times: usize) {
        for _ in 0..times {
            let failed = event(EventKind::LoginFailed, second);
            self.store.refuse_login(lane, &failed).await.unwrap();
        }
    }
}

async fn a_network_is_known_by_a_session_of_the_last_thirty_days(home: Home) {
    let (user, first) = home.user("ann").await;
    let known = ("2001:db8::/48".to_owned(), None);
    let strange = ("*".to_owned(), None);
    let state = home.store.login_state(&ann(), ip("2001:db8:0:9::9"), at(1)).await.unwrap();
    let account = state.account.unwrap();
    assert_eq!((&account.user.id, account.password_hash), (&user, Some(hash("first"))));
    assert_eq!(state.lane, Lane::at_home(&ann(), ip("2001:db8::")));
    for (address, second, expected) in [
        ("2001:db8:0:ffff::", 30 * DAY - 1, &known),
        ("2001:db8:1::1", 1, &strange),
        (ELSEWHERE, 1, &strange),
        ("2001:db8::1", 30 * DAY, &strange),
    ] {
        assert_eq!(home.state(&ann(), address, second).await, *expected, "{address} {second}");
    }
    home.store.touch_sessions(&[(first.session.id, at(5 * DAY))]).await.unwrap();
    assert_eq!(home.state(&ann(), "2001:db8::1", 35 * DAY - 1).await, known);
    assert_eq!(home.state(&ann(), "2001:db8::1", 35 * DAY).await, strange);

    // Nobody's address, and an account without a session or a password, are met alike.
    let nobody: Email = "nobody@example.com".parse().unwrap();
    let state = home.store.login_state(&nobody, ip("2001:db8::1"), at(1)).await.unwrap();
    assert!(state.account.is_none() && state.blocked_until.is_none());
    assert_eq!(state.lane, Lane::of_strangers(&nobody));
}

async fn failures_block_their_lane_and_no_other(home: Home) {
    home.user("ann").await;
    let nobody: Email = "nobody@example.com".parse().unwrap();
    for (email, home_is_known) in [(ann(), true), (nobody, false)] {
        let strangers = Lane::of_strangers(&email);
        home.fail(&strangers, 10, 4).await;
        assert_eq!(home.state(&email, ELSEWHERE, 10).await, ("*".to_owned(), Some(at(10))));
        for (second, pause) in [(20, 1), (30, 3), (40, 5), (50, 10), (60, 30), (70, 60), (80, 60)] {
            home.fail(&strangers, second, 1).await;
            let until = Some(at(second + pause));
            assert_eq!(home.state(&email, ELSEWHERE, second).await.1, until);
            let at_home = home.state(&email, "2001:db8::1", second).await;
            assert_eq!(at_home.1.is_none(), home_is_known, "{at_home:?}");
        }
        // A clock that goes back shortens nothing.
        home.fail(&strangers, 5, 1).await;
        assert_eq!(home.state(&email, ELSEWHERE, 80).await.1, Some(at(140)));
    }
    let failed = home.kinds().await.iter().filter(|k| **k == EventKind::LoginFailed).count();
    assert_eq!(failed, 24);
    // Another process sees the same.
    let state = home.another().login_state(&ann(), ip(ELSEWHERE), at(80)).await.unwrap();
    assert_eq!(state.blocked_until, Some(at(140)));
}

async fn a_login_clears_its_lane(home: Home) {
    let (user, _) = home.user("ann").await;
    let at_home = Lane::at_home(&ann(), ip("2001:db8::"));
    let strangers = Lane::of_strangers(&ann());
    for lane in [&at_home, &strangers] {
        home.fail(lane, 10, 6).await;
    }
    let log_in = async |checked: &str, lane: &Lane| {
        let new = login(&user, 20);
        let session = Session { address: Some(ip(ELSEWHERE)), ..new.session };
        let new = NewLogin { session, clears: Some(lane.clone()), ..new };
        let logged_in = event(EventKind::Login, 20);
        home.store.log_in(&user, &hash(checked), None, &new, &logged_in).await.unwrap();
    };
    log_in("second", &at_home).await;
    assert_eq!(home.state(&ann(), "2001:db8::1", 20).await.1, Some(at(13)), "it was refused");
    log_in("first", &at_home).await;
    assert_eq!(home.state(&ann(), "2001:db8::1", 20).await.1, None);
    assert_eq!(home.state(&ann(), "192.0.3.1", 20).await, ("*".to_owned(), Some(at(13))));
    // That login made its own network a known one.
    assert_eq!(home.state(&ann(), ELSEWHERE, 20).await, ("192.0.2.0/24".to_owned(), None));
}

async fn failures_at_once_all_count(home: Home) {
    let lane = Lane::of_strangers(&ann());
    let failures = (0..10).map(|_| home.fail(&lane, 10, 1));
    futures_util::future::join_all(failures).await;
    assert_eq!(home.state(&ann(), ELSEWHERE, 10).await.1, Some(at(70)), "the tenth was counted");
}

async fn a_quiet_day_is_forgotten_and_pruned(home: Home) {
    let lane = Lane::of_strangers(&ann());
    home.fail(&lane, 0, 12).await;
    home.fail(&lane, DAY, 1).await;
    assert_eq!(home.state(&ann(), ELSEWHERE, DAY).await.1, Some(at(DAY + 60)), "not quiet enough");
    home.fail(&lane, 2 * DAY + 1, 1).await;
    assert_eq!(home.state(&ann(), ELSEWHERE, 2 * DAY + 1).await.1, Some(at(2 * DAY + 1)));

    home.fail(&Lane::at_home(&ann(), ip(ELSEWHERE)), 2 * DAY + 1, 1).await;
    assert_eq!(home.store.prune(at(3 * DAY + 1)).await.unwrap(), 0);
    assert_eq!(home.store.prune(at(3 * DAY + 2)).await.unwrap(), 2);
    assert_eq!(home.state(&ann(), ELSEWHERE, 2 * DAY + 1).await.1, None);
}

async fn guards_are_seen_and_forgotten(home: Home) {
    let bob: Email = "bob@example.com".parse().unwrap();
    let reset = event(EventKind::LimitReset, 20);
    assert_eq!(home.store.clear_guards(&ann(), &reset).await.unwrap(), 0);
    home.fail(&Lane::of_strangers(&ann()), 10, 6).await;
    home.fail(&Lane::at_home(&ann(), ip(ELSEWHERE)), 11, 1).await;
    home.fail(&Lane::of_strangers(&bob), 12, 7).await;
    let guard = |lane: &str, failures, failed_at, blocked_until| Guard {
        lane: lane.to_owned(),
        failures,
        failed_at: at(failed_at),
        blocked_until: at(blocked_until),
    };
    let expected = [guard("*", 6, 10, 13), guard("192.0.2.0/24", 1, 11, 11)];
    assert_eq!(home.store.guards_of(&ann()).await.unwrap(), expected);
    assert_eq!(home.store.clear_guards(&ann(), &reset).await.unwrap(), 2);
    assert_eq!(home.store.guards_of(&ann()).await.unwrap(), []);
    assert_eq!(home.state(&ann(), "192.0.3.1", 10).await.1, None);
    assert_eq!(home.store.guards_of(&bob).await.unwrap().len(), 1);
    let resets = home.kinds().await.iter().filter(|k| **k == EventKind::LimitReset).count();
    assert_eq!(resets, 1, "nothing was forgotten the first time");
}
