//! What the black-box tests share: a scripted provider. Nothing of Outlive is in scope: the tests reach it over HTTP.

// A test may panic where a fixture is not as expected.
#![allow(clippy::indexing_slicing)]

pub mod upstream;
