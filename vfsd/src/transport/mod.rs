//! Connections between nodes: mutual TLS, frames, enrolment.
