//! A store for tests that breaks: whoever uses it is killed at some call, before or after that call had its effect, and calls
//! of several users come in any order.

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What happens to its user.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<InMemory>,
    /// Calls that still go well.
    left: AtomicU64,
    /// The call at which it breaks has its effect all the same.
    effect: bool,
    /// For how long calls wait.
    order: AtomicU64,
}

impl FaultyStore {
    /// Breaks at the call after `calls`.
    pub(crate) fn broken_after(inner: &Arc<InMemory>, calls: u64, effect: bool) -> Arc<FaultyStore> {
        Arc::new(FaultyStore {
            inner: Arc::clone(inner),
            left: AtomicU64::new(calls),
            effect,
            order: AtomicU64::new(0),
        })
    }

    /// Never breaks; its calls come in an order that `seed` makes.
    pub(crate) fn shuffled(inner: &Arc<InMemory>, seed: u64) -> Arc<FaultyStore> {
        Arc::new(FaultyStore {
            inner: Arc::clone(inner),
            left: AtomicU64::new(u64::MAX),
            effect: false,
            order: AtomicU64::new(seed | 1),
        })
    }

    fn killed() -> object_store::Error {
        object_store::Error::Generic {
            store: "faulty",
            source: "killed".into(),
        }
    }

    /// How many calls were left before this one.
    fn count_down(&self) -> u64 {
        let count = |left: u64| Some(left.saturating_sub(1));
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count)
            .unwrap_or(0)
    }

    /// Whether this call goes well, and whether it has its effect.
    async fn call(&self) -> (bool, bool) {
        let order = self.order.load(Ordering::Relaxed);
        if order != 0 {
            let next = order
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            self.order.store(next, Ordering::Relaxed);
            for _ in 0..(next >> 33) % 8 {
                tokio::task::yield_now().await;
            }
        }
        match self.count_down() {
            0 => (false, false),
            1 => (false, self.effect),
            _ => (true, true),
        }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (well, effect) = self.call().await;
        let done = if effect {
            self.inner.put_opts(location, payload, opts).await
        } else {
            Err(FaultyStore::killed())
        };
        if well { done } else { Err(FaultyStore::killed()) }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(FaultyStore::killed())
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.call().await {
            (true, _) => self.inner.get_opts(location, options).await,
            _ => Err(FaultyStore::killed()),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let inner = Arc::clone(&self.inner);
        let (left, effect) = (self.count_down(), self.effect);
        locations
            .then(move |location| {
                let inner = Arc::clone(&inner);
                async move {
                    let location = location?;
                    if left > 1 || (left == 1 && effect) {
                        inner.delete(&location).await?;
                    }
                    if left > 1 {
                        Ok(location)
                    } else {
                        Err(FaultyStore::killed())
                    }
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.count_down() > 1 {
            return self.inner.list(prefix);
        }
        futures::stream::once(async { Err(FaultyStore::killed()) }).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        match self.call().await {
            (true, _) => self.inner.list_with_delimiter(prefix).await,
            _ => Err(FaultyStore::killed()),
        }
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(FaultyStore::killed())
    }
}

/// Every key that is there.
pub(crate) async fn keys(inner: &InMemory) -> Vec<String> {
    let listed: Vec<ObjectMeta> = inner.list(None).try_collect().await.expect("memory lists");
    let mut keys: Vec<String> = listed.into_iter().map(|meta| meta.location.to_string()).collect();
    keys.sort();
    keys
}
