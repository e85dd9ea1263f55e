//! The wire contracts between Stagepost's services, and nothing else.
