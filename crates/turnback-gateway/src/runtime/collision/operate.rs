//! What operators see of leases, and how they release them.

use turnback_core::names::ResourceName;
use turnback_core::record::Body;
use turnback_core::refusal::{Code, Refusal};

use super::super::{Inner, durable, lock};
use crate::operator::protocol::{LeaseView, Reply};

impl Inner {
    /// All leases that stand.
    pub(in super::super) fn leases(&self) -> Reply {
        let held = lock(&self.collisions.leases).on(None, None, self.now());
        Reply::Leases(held.into_iter().map(LeaseView::from).collect())
    }

    /// Takes the leases on a resource, or on one place of it and beneath, from their holders.
    pub(in super::super) async fn release_leases(
        &self,
        resource: &ResourceName,
        place: Option<&str>,
        reason: String,
        by: &str,
    ) -> Result<Reply, Refusal> {
        if reason.trim().is_empty() {
            return Err(Refusal::new(Code::BadInput, "releasing leases needs a reason").at("reason"));
        }
        let held = lock(&self.collisions.leases).on(Some(resource), place, self.now());
        if held.is_empty() {
            let message = "nobody holds a lease there";
            return Err(Refusal::new(Code::NotFound, message).at(resource.as_str()).next("see: turnback leases"));
        }
        let body = Body::LeasesReleased { leases: held.clone(), by: by.to_owned(), reason };
        durable(self.released(body, &held)).await?;
        Ok(Reply::Leases(held.into_iter().map(LeaseView::from).collect()))
    }
}
