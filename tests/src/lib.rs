//! What the black-box tests share. In scope: a provider that behaves as told. Not in scope: anything of Outlive, which
//! is only met over HTTP.

// A test may stop at the first surprise.
#![allow(clippy::indexing_slicing)]

pub mod upstream;
