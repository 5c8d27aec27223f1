//! What needs root and network namespaces: the lab's own tests, and the scenarios.

mod calico;
mod calico_arp;
mod changes;
mod commands;
mod configuration;
mod explain;
mod flags;
mod foreign;
mod frames;
mod gatewayless;
mod interfaces;
mod kernel;
mod lan;
mod lease;
mod listeners;
mod matrix;
mod metrics;
mod preflight;
mod private_vlan;
mod privileges;
mod refusals;
mod regressions;
mod sessions;
mod steady;
mod systemd;
mod tap;
