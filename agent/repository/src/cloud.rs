//! Stores that are reached by HTTP.

use crate::config::Place;
use object_store::ObjectStore;
use std::sync::Arc;

#[cfg(feature = "cloud")]
use object_store::prefix::PrefixStore;
#[cfg(feature = "cloud")]
use object_store::{ClientOptions, RetryConfig};
#[cfg(feature = "cloud")]
use std::time::Duration;

/// What speaks to a store that is not a directory. Nothing is sent yet.
pub(crate) fn connect(place: Place<'_>) -> Result<Arc<dyn ObjectStore>, String> {
    match place {
        Place::Directory(path) => Err(format!("{} is a directory", path.display())),
        #[cfg(feature = "s3")]
        Place::S3(s3) => amazon(s3),
        #[cfg(feature = "gcs")]
        Place::Gcs(gcs) => google(gcs),
        #[cfg(feature = "azure")]
        Place::Azure(azure) => microsoft(azure),
        #[allow(unreachable_patterns, reason = "each of them can be left out of a build")]
        _ => Err(
            "this program was built without this kind of store (features of the crate repository)".to_owned(),
        ),
    }
}

#[cfg(feature = "s3")]
fn amazon(s3: &crate::bucket::S3) -> Result<Arc<dyn ObjectStore>, String> {
    let mut builder = object_store::aws::AmazonS3Builder::from_env()
        .with_bucket_name(&s3.bucket)
        .with_client_options(options(s3.endpoint.as_deref()))
        .with_retry(retry());
    if let Some(region) = &s3.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let (Some(id), Some(secret)) = (&s3.access_key_id, &s3.secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    let store = builder.build().map_err(|error| error.to_string())?;
    Ok(below(store, &s3.prefix))
}

#[cfg(feature = "gcs")]
fn google(gcs: &crate::bucket::Gcs) -> Result<Arc<dyn ObjectStore>, String> {
    let mut builder = object_store::gcp::GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&gcs.bucket)
        .with_client_options(options(gcs.endpoint.as_deref()))
        .with_retry(retry());
    if let Some(endpoint) = &gcs.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if let Some(file) = &gcs.service_account_file {
        builder = builder.with_service_account_path(file.display().to_string());
    }
    if gcs.anonymous {
        // Even so it would look for credentials and, on a machine that is not Google's, wait for them.
        builder = builder.with_bearer_token("").with_skip_signature(true);
    }
    let store = builder.build().map_err(|error| error.to_string())?;
    Ok(below(store, &gcs.prefix))
}

#[cfg(feature = "azure")]
fn microsoft(azure: &crate::bucket::Azure) -> Result<Arc<dyn ObjectStore>, String> {
    let mut builder = object_store::azure::MicrosoftAzureBuilder::from_env()
        .with_container_name(&azure.container)
        .with_account(&azure.account)
        .with_client_options(options(azure.endpoint.as_deref()))
        .with_retry(retry());
    if let Some(endpoint) = &azure.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let Some(file) = &azure.access_key_file {
        let key = std::fs::read_to_string(file)
            .map_err(|error| format!("azure.access_key_file {} cannot be read: {error}", file.display()))?;
        builder = builder.with_access_key(key.trim());
    }
    let store = builder.build().map_err(|error| error.to_string())?;
    Ok(below(store, &azure.prefix))
}

#[cfg(feature = "cloud")]
fn below<S: ObjectStore>(store: S, prefix: &str) -> Arc<dyn ObjectStore> {
    if prefix.is_empty() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, prefix))
    }
}

#[cfg(feature = "cloud")]
fn options(endpoint: Option<&str>) -> ClientOptions {
    // The HTTP client has no TLS of its own choice; that somebody else has chosen one already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(3))
        .with_timeout(Duration::from_secs(30))
        .with_allow_http(endpoint.is_some_and(|url| url.starts_with("http://")))
}

#[cfg(feature = "cloud")]
fn retry() -> RetryConfig {
    RetryConfig {
        max_retries: 4,
        retry_timeout: Duration::from_secs(40),
        ..RetryConfig::default()
    }
}
