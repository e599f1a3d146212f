//! What every store must do, as tests that run on any of them. Used by the tests of the stores only.
