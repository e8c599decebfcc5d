//! The account endpoints as OpenAPI: one document, written in one file for the paths and one for the
//! schemas of each area.

/// The whole document (YAML).
pub const DOCUMENT: &str = concat!(
    include_str!("head.yaml"),
    // paths:
    include_str!("paths/account.yaml"),
    include_str!("paths/activity.yaml"),
    include_str!("paths/admin.yaml"),
    include_str!("paths/api_keys.yaml"),
    include_str!("paths/factors.yaml"),
    include_str!("paths/links.yaml"),
    include_str!("paths/oauth.yaml"),
    include_str!("paths/public.yaml"),
    include_str!("components.yaml"),
    // schemas:
    include_str!("schemas/account.yaml"),
    include_str!("schemas/activity.yaml"),
    include_str!("schemas/admin.yaml"),
    include_str!("schemas/api_keys.yaml"),
    include_str!("schemas/factors.yaml"),
    include_str!("schemas/links.yaml"),
    include_str!("schemas/oauth.yaml"),
    include_str!("schemas/public.yaml"),
    include_str!("schemas/problem.yaml"),
);
