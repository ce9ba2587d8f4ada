//! An instance of the function: clock, chance and HTTP are the native node's, since both run on tokio and hyper.

pub(crate) use outlive_machine::Machine;
