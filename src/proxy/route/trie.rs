//! The patterns of all routes as a trie of segments: which routes have the most specific pattern
//! that matches a path. Knows neither methods nor access.
//!
//! At each node a literal child is tried first, then the typed variables, the untyped one, and
//! last the node's own `{*rest}`. Because overlapping patterns that are not specialisations of
//! each other are refused when the table loads, all patterns that match a path form a chain, and
//! the first that this order finds is the most specific one, whatever the order in the file.
//!
//! A branch that leads nowhere is left again (`/a/b` and `/{x}/c` for `/a/c`); the trie being a
//! tree, no node is entered twice, and only nodes that match the path so far are entered. Where no
//! two branches match, which is the ordinary case, the walk is one hash look-up a segment, however
//! many routes there are.
//!
//! A typed variable is different: unless a literal sibling matched, its place is its own. What is
//! there is spelled canonically or the request is refused; it never falls through to `{*rest}`.

use std::collections::HashMap;

use super::pattern::{Kind, Pattern, Segment};
use crate::proxy::path::{self, PathError};

/// The trie. Node 0 is the root: the slash that every path starts with.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// By decoded text.
    literals: HashMap<Box<str>, usize, ahash::RandomState>,
    uuid: Option<usize>,
    int: Option<usize>,
    any: Option<usize>,
    /// Routes whose pattern ends here. They share one shape and differ by method.
    ends: Vec<usize>,
    /// Routes whose `{*rest}` starts here.
    rests: Vec<usize>,
}

impl Trie {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()] }
    }

    /// Adds a route.
    pub(super) fn insert(&mut self, pattern: &Pattern, route: usize) {
        let mut node = 0;
        for segment in &pattern.segments {
            node = self.child_or_new(node, segment);
        }
        let node = &mut self.nodes[node];
        if pattern.rest.is_some() { &mut node.rests } else { &mut node.ends }.push(route);
    }

    /// The routes with the most specific pattern that matches; none = no pattern does.
    ///
    /// `after_root` is a canonical path without its first slash.
    ///
    /// # Errors
    /// A typed variable is not spelled canonically.
    pub(super) fn find(&self, after_root: &str) -> Result<&[usize], PathError> {
        self.walk(0, Some(after_root))
    }

    fn walk(&self, node: usize, remaining: Option<&str>) -> Result<&[usize], PathError> {
        let node = &self.nodes[node];
        let Some(remaining) = remaining else {
            return Ok(if node.ends.is_empty() { &node.rests } else { &node.ends });
        };
        let (segment, after) = match memchr::memchr(b'/', remaining.as_bytes()) {
            Some(at) => (&remaining[..at], Some(&remaining[at + 1..])),
            None => (remaining, None),
        };
        let literal = node.literal(segment);
        if let Some(child) = literal {
            let found = self.walk(child, after)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        if !segment.is_empty() {
            let typed = [(node.uuid, Kind::Uuid), (node.int, Kind::Int)];
            let fitting =
                typed.iter().find(|(child, kind)| child.is_some() && kind.accepts(segment));
            match fitting {
                Some((child, _)) => {
                    let found = child.map_or(Ok(&[][..]), |child| self.walk(child, after))?;
                    if !found.is_empty() {
                        return Ok(found);
                    }
                }
                None if literal.is_none() && (node.uuid.is_some() || node.int.is_some()) => {
                    return Err(PathError::VariableSpelling);
                }
                None => {}
            }
            if let Some(child) = node.any {
                let found = self.walk(child, after)?;
                if !found.is_empty() {
                    return Ok(found);
                }
            }
        }
        Ok(&node.rests)
    }

    /// All routes whose patterns share a path with this one.
    pub(super) fn overlapping(&self, pattern: &Pattern) -> Vec<usize> {
        let mut found = Vec::new();
        self.gather(0, &pattern.segments, pattern.rest.is_some(), &mut found);
        found
    }

    fn gather(&self, node: usize, segments: &[Segment], rest: bool, found: &mut Vec<usize>) {
        let node = &self.nodes[node];
        found.extend(&node.rests);
        let Some((segment, after)) = segments.split_first() else {
            found.extend(&node.ends);
            if rest {
                node.children().for_each(|child| self.gather(child, &[], true, found));
            }
            return;
        };
        let mut descend = |child: &usize| self.gather(*child, after, rest, found);
        match segment {
            Segment::Literal(literal) => {
                node.literals.get(literal).iter().for_each(|child| descend(child));
                for (child, kind) in node.variables() {
                    if kind.accepts(literal) {
                        descend(&child);
                    }
                }
            }
            Segment::Variable(_, kind) => {
                for (literal, child) in &node.literals {
                    if kind.accepts(literal) {
                        descend(child);
                    }
                }
                for (child, other) in node.variables() {
                    if *kind == other || *kind == Kind::Any || other == Kind::Any {
                        descend(&child);
                    }
                }
            }
        }
    }

    fn child_or_new(&mut self, node: usize, segment: &Segment) -> usize {
        let new = self.nodes.len();
        let parent = &mut self.nodes[node];
        let child = match segment {
            Segment::Literal(literal) => *parent.literals.entry(literal.clone()).or_insert(new),
            Segment::Variable(_, Kind::Uuid) => *parent.uuid.get_or_insert(new),
            Segment::Variable(_, Kind::Int) => *parent.int.get_or_insert(new),
            Segment::Variable(_, Kind::Any) => *parent.any.get_or_insert(new),
        };
        if child == new {
            self.nodes.push(Node::default());
        }
        child
    }
}

impl Node {
    /// The child for a segment of a request. Literals are compared decoded, because an upstream
    /// takes `/%61dmin` for `/admin`, and so must its guard (RFC 3986 §6.2.2.2).
    fn literal(&self, segment: &str) -> Option<usize> {
        if self.literals.is_empty() {
            return None;
        }
        if memchr::memchr(b'%', segment.as_bytes()).is_none() {
            return self.literals.get(segment).copied();
        }
        self.literals.get(path::decode_segment(segment)?.as_ref()).copied()
    }

    fn variables(&self) -> impl Iterator<Item = (usize, Kind)> {
        [(self.uuid, Kind::Uuid), (self.int, Kind::Int), (self.any, Kind::Any)]
            .into_iter()
            .filter_map(|(child, kind)| Some((child?, kind)))
    }

    fn children(&self) -> impl Iterator<Item = usize> {
        self.literals.values().copied().chain(self.variables().map(|(child, _)| child))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trie(patterns: &[&str]) -> Trie {
        let mut trie = Trie::new();
        for (route, pattern) in patterns.iter().enumerate() {
            trie.insert(&Pattern::parse(pattern).unwrap(), route);
        }
        trie
    }

    #[test]
    fn the_most_specific_pattern_wins_in_any_order() {
        let patterns = [
            "/{*rest}",
            "/api/{*rest}",
            "/api/{name}",
            "/api/{name}/x",
            "/api/health",
            "/api/health/",
            "/n/{id:int}",
            "/n/me",
            "/n/{id:int}/x",
            "/n/{*rest}",
            "/u/{id:uuid}/{*rest}",
            "/a/b",
            "/{x}/c",
            "/caf%C3%A9",
        ];
        let uuid = "/u/018f2d3e-0000-7000-8000-000000000000";
        let expected: &[(&str, Result<&str, PathError>)] = &[
            ("/", Ok("/{*rest}")),
            ("/zzz", Ok("/{*rest}")),
            ("/api", Ok("/api/{*rest}")),
            ("/api/", Ok("/api/{*rest}")),
            ("/api/bob", Ok("/api/{name}")),
            ("/api/bob/x", Ok("/api/{name}/x")),
            ("/api/bob/y", Ok("/api/{*rest}")),
            ("/api/bob/", Ok("/api/{*rest}")),
            ("/api/health", Ok("/api/health")),
            ("/api/health/", Ok("/api/health/")),
            ("/api/health/x", Ok("/api/{name}/x")),
            ("/%61pi/%68ealth", Ok("/api/health")),
            ("/API/health", Ok("/{*rest}")),
            ("/n/7", Ok("/n/{id:int}")),
            ("/n/07", Err(PathError::VariableSpelling)),
            ("/n/bob", Err(PathError::VariableSpelling)),
            ("/n/%37", Err(PathError::VariableSpelling)),
            ("/n/me", Ok("/n/me")),
            ("/n/me/x", Ok("/n/{*rest}")),
            ("/n/7/x", Ok("/n/{id:int}/x")),
            ("/n/7/y", Ok("/n/{*rest}")),
            ("/n/", Ok("/n/{*rest}")),
            ("/n", Ok("/n/{*rest}")),
            (uuid, Ok("/u/{id:uuid}/{*rest}")),
            ("/u/018F2D3E-0000-7000-8000-000000000000", Err(PathError::VariableSpelling)),
            ("/a/b", Ok("/a/b")),
            ("/a/c", Ok("/{x}/c")),
            ("/q/c", Ok("/{x}/c")),
            ("/caf%c3%a9", Ok("/caf%C3%A9")),
        ];
        for turn in 0..patterns.len() {
            let mut turned = patterns.to_vec();
            turned.rotate_left(turn);
            let trie = trie(&turned);
            for (path, pattern) in expected {
                let found = trie.find(&path[1..]).map(|routes| match routes {
                    [route] => turned[*route],
                    _ => "",
                });
                assert_eq!(found, *pattern, "{path}");
            }
        }
        assert_eq!(trie(&["/a/{x}"]).find("a/"), Ok(&[][..]));
        assert_eq!(trie(&["/a"]).find("a/"), Ok(&[][..]));
        assert_eq!(trie(&["/a/"]).find("a"), Ok(&[][..]));
    }

    #[test]
    fn overlapping_patterns_are_all_found() {
        let patterns =
            ["/a/b", "/{x}/b", "/a/{*r}", "/{n:int}/b", "/7/b", "/c", "/{*r}", "/a/b/c/d"];
        let trie = trie(&patterns);
        for pattern in [
            "/a/b",
            "/{y}/b",
            "/a/{y}",
            "/{*q}",
            "/{n:int}/{y}",
            "/{u:uuid}/b",
            "/a/b/{*q}",
            "/a/",
            "/{y}/{z}/{*q}",
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            let mut found = trie.overlapping(&pattern);
            found.sort_unstable();
            let one_by_one: Vec<usize> = (0..patterns.len())
                .filter(|&at| {
                    Pattern::parse(patterns[at]).unwrap().example_of_both(&pattern).is_some()
                })
                .collect();
            assert_eq!(found, one_by_one, "{pattern:?}");
        }
    }
}
