//! The product as processes: starts the real binaries on ports that the kernel chooses, drives them with real
//! clients, and stops them whatever happens to the test.
//!
//! `gateway` and `worker` are the processes under test. `upstream` stands in for workers that must misbehave on
//! command, and `faulty` is one as a process of its own; `onnx` writes models for the real ones. `nameserver`, `etcd`, `consul`
//! and `kubernetes` say where they are, `relay` is a way that can be cut, `members` is who belongs. `client`, `strict`,
//! `wire` and `load` are who calls, `tls` is what they trust.

pub mod client;
pub mod consul;
pub mod etcd;
pub mod faulty;
pub mod folder;
pub mod gateway;
pub mod kubernetes;
pub mod load;
pub mod members;
pub mod nameserver;
pub mod onnx;
pub mod process;
pub mod redis;
pub mod relay;
pub mod strict;
pub mod tls;
pub mod upstream;
pub mod wire;
pub mod worker;
