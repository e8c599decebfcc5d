//! Which of several servers a request goes to. Pure: candidates come in with their shares, a
//! place comes out. Who is a candidate (not passed over, not full, not tried yet) is decided
//! elsewhere.

use std::cell::RefCell;

/// Smooth weighted round robin: everybody is credited with their share each time, and whoever has
/// most is taken and pays for all. Servers of weights 5, 1, 1 come as A A B A C A A, not as
/// A A A A A B C. A candidate that is left out keeps its credit, so it is neither forgotten nor
/// flooded when it returns.
pub(super) struct Turns {
    credit: RefCell<Vec<i64>>,
}

impl Turns {
    /// Turns among so many servers.
    pub(super) fn new(servers: usize) -> Self {
        Self { credit: RefCell::new(vec![0; servers]) }
    }

    /// The next of `candidates`: places and shares.
    pub(super) fn next(&self, candidates: impl Iterator<Item = (usize, u32)>) -> Option<usize> {
        let mut credit = self.credit.borrow_mut();
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (place, share) in candidates {
            let share = i64::from(share);
            credit[place] += share;
            total += share;
            if best.is_none_or(|(_, most)| credit[place] > most) {
                best = Some((place, credit[place]));
            }
        }
        let (place, _) = best?;
        credit[place] -= total;
        Some(place)
    }
}

/// The candidate that has least to do for its share: places, requests in flight, shares. Of equals
/// the first one.
pub(super) fn fewest(candidates: impl Iterator<Item = (usize, usize, u32)>) -> Option<usize> {
    let mut best: Option<(usize, u64, u64)> = None;
    for (place, in_flight, share) in candidates {
        // With this request, so that an idle server of twice the weight comes first.
        let (load, share) = (in_flight as u64 + 1, u64::from(share.max(1)));
        if best.is_none_or(|(_, least, its)| load * its < least * share) {
            best = Some((place, load, share));
        }
    }
    best.map(|(place, ..)| place)
}

/// Weighted rendezvous hashing: the candidate that scores highest for `key`: places, hashes of the
/// servers' names, shares. When one leaves, only the keys it had move, and they spread over all
/// others; gateways that know the same servers agree without talking.
pub(super) fn rendezvous(
    key: u64,
    candidates: impl Iterator<Item = (usize, u64, u32)>,
) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (place, server, share) in candidates {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are kept, and enough")]
        let uniform = ((mix(key ^ server) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        let score = f64::from(share) / -uniform.ln();
        if best.is_none_or(|(_, highest)| score > highest) {
            best = Some((place, score));
        }
    }
    best.map(|(place, _)| place)
}

/// A hash that is the same in every process and version: FNV-1a, then mixed, as its low bits alone
/// are poor.
pub(super) fn stable_hash(text: &str) -> u64 {
    let fnv = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(fnv)
}

/// The finalizer of `SplitMix64`.
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_the_weights_and_are_spread() {
        let turns = Turns::new(3);
        let weights = [5, 1, 1];
        let order: Vec<_> =
            (0..7).filter_map(|_| turns.next(weights.into_iter().enumerate())).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(turns.next(std::iter::empty()), None);
    }

    #[test]
    fn one_that_is_left_out_for_a_while_is_not_flooded_when_it_returns() {
        let turns = Turns::new(2);
        for _ in 0..100 {
            assert_eq!(turns.next([(0, 1)].into_iter()), Some(0));
        }
        let both: Vec<_> =
            (0..6).filter_map(|_| turns.next([(0, 1), (1, 1)].into_iter())).collect();
        assert_eq!(both.iter().filter(|&&place| place == 1).count(), 3, "{both:?}");
    }

    #[test]
    fn the_one_with_least_to_do_for_its_weight_is_taken() {
        for (candidates, expected) in [
            (vec![(0, 0, 1), (1, 0, 1)], 0),
            (vec![(0, 3, 1), (1, 2, 1)], 1),
            (vec![(0, 0, 1), (1, 0, 2)], 1),
            (vec![(0, 1, 1), (1, 2, 2)], 1),
            (vec![(0, 0, 1), (1, 2, 2)], 0),
        ] {
            assert_eq!(fewest(candidates.clone().into_iter()), Some(expected), "{candidates:?}");
        }
        assert_eq!(fewest(std::iter::empty()), None);
    }

    fn servers(weights: &[u32]) -> Vec<(usize, u64, u32)> {
        let name = |place| stable_hash(&format!("http://10.0.0.{place}:8000"));
        weights.iter().enumerate().map(|(place, &weight)| (place, name(place), weight)).collect()
    }

    fn place_of(user: usize, servers: &[(usize, u64, u32)]) -> usize {
        let key = stable_hash(&format!("018f2d3e-0000-7000-8000-{user:012}"));
        rendezvous(key, servers.iter().copied()).unwrap()
    }

    #[test]
    fn users_spread_by_weight() {
        let servers = servers(&[1, 1, 2]);
        let mut counts = [0_u32; 3];
        (0..20_000).for_each(|user| counts[place_of(user, &servers)] += 1);
        for (count, expected) in counts.into_iter().zip([5_000, 5_000, 10_000]) {
            assert!(count.abs_diff(expected) < 400, "{counts:?}");
        }
    }

    #[test]
    fn when_a_server_leaves_only_its_users_move() {
        let all = servers(&[1; 5]);
        let without: Vec<_> = all.iter().copied().filter(|server| server.0 != 2).collect();
        let mut moved_to = [0_u32; 5];
        for user in 0..10_000 {
            let (before, after) = (place_of(user, &all), place_of(user, &without));
            if before == 2 {
                moved_to[after] += 1;
            } else {
                assert_eq!(before, after, "user {user}");
            }
        }
        assert!(moved_to.iter().enumerate().all(|(at, &n)| (at == 2) == (n == 0)), "{moved_to:?}");
    }

    #[test]
    fn hashes_are_those_of_other_gateways() {
        assert_eq!(stable_hash(""), 17_665_956_581_633_026_203);
        assert_ne!(stable_hash("a"), stable_hash("b"));
    }
}
