//! What needs root and network namespaces: the lab's own tests, and the scenarios.

mod kernel;
