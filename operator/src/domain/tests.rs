//! What is decided, from fixtures and in simulated time.

mod judged;
mod rotated;
