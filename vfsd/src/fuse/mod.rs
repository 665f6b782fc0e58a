//! The kernel adapter: decode, call `fs`, reply.
