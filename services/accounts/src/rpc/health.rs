//! The services' health, for whoever spreads calls over replicas (the gRPC health checking protocol).

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream};
use proto::accounts::v1::administration_server::SERVICE_NAME as ADMINISTRATION;
use proto::accounts::v1::directory_server::SERVICE_NAME as DIRECTORY;
use proto::accounts::v1::signing_server::SERVICE_NAME as SIGNING;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health as Service;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::mirror;
use crate::office::Office;

pub(super) struct Standing {
    pub(super) office: Arc<Office>,
}

/// None for a service that isn't here.
fn status(service: &str, standing: &mirror::Standing) -> Option<ServingStatus> {
    match service {
        // What was known last is answered whatever happens.
        "" | DIRECTORY | SIGNING => Some(ServingStatus::Serving),
        ADMINISTRATION if standing.is_ok() => Some(ServingStatus::Serving),
        ADMINISTRATION => Some(ServingStatus::NotServing),
        _ => None,
    }
}

#[tonic::async_trait]
impl Service for Standing {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let HealthCheckRequest { service } = request.into_inner();
        let status = status(&service, &self.office.standing().borrow());
        let status = status.ok_or_else(|| Status::not_found(format!("there is no service {service}")))?;
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let HealthCheckRequest { service } = request.into_inner();
        let state = (self.office.standing(), None);
        let next = move |(mut standing, told): (tokio::sync::watch::Receiver<_>, Option<_>)| {
            let service = service.clone();
            async move {
                let now = |standing: &mirror::Standing| {
                    status(&service, standing).unwrap_or(ServingStatus::ServiceUnknown)
                };
                let status = now(&*standing.wait_for(|standing| Some(now(standing)) != told).await.ok()?);
                let answer = HealthCheckResponse { status: status.into() };
                Some((Ok(answer), (standing, Some(status))))
            }
        };
        Ok(Response::new(Box::pin(stream::unfold(state, next))))
    }
}
