//! Who is a member, under which authority, in contact with whom, and whether all hold the same state.

pub mod authority;
pub(super) mod authority_change;
pub(super) mod change_steps;
pub mod confirmation;
pub mod enrolment;
pub(super) mod hand_over;
pub mod level_keeper;
pub mod lineage_watch;
pub mod membership;
pub mod node_name;
pub mod peers;
pub mod peers_file;
pub mod pledge_keeper;
pub mod pledges;
pub mod quorum;
pub mod status;
pub mod succession;
pub mod unfit;
