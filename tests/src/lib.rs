//! The product as processes: starts the real binaries on ports that the kernel chooses, and stops them whatever
//! happens to the test.

pub mod gateway;
pub mod process;
pub mod upstream;
