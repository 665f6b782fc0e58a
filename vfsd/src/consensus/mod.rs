//! The Raft rim: openraft behind one module.
