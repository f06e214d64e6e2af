//! Every bound and default, in one place.
