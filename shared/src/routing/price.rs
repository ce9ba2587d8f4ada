//! Placeholder until the table is here.
use crate::config::ProviderKind;
/// x
pub struct Facts {
    /// x
    pub output_tokens: Option<u32>,
}
/// x
pub fn facts(_: ProviderKind, _: &str) -> Option<Facts> {
    None
}
