//! Snapshots of everything people read, without colours, and the law that nothing foreign gets through.
