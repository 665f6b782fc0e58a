//! The admin socket of a running daemon.
