use crate::{
    config::Candidate,
    node::Node,
    platform::{Platform, Timestamp},
    provider::ProviderError,
    routing::rate_limit::RateLimit,
};

/// One call of a candidate, from its beginning to the end of its answer. However that comes about, it is counted.
pub(super) struct Flight<P: Platform> {
    node: Node<P>,
    pub(super) candidate: Candidate,
    /// Which of the provider's keys is used.
    pub(super) key: usize,
    probe: bool,
    began: Timestamp,
}

impl<P: Platform> Flight<P> {
    pub(super) fn begin(node: &Node<P>, candidate: &Candidate) -> Self {
        let now = node.platform().now();
        let keys = node.config().provider(&candidate.provider).map_or(0, |provider| provider.keys.len());
        let mut health = node.health().borrow_mut();
        let key = health.key(&candidate.provider, keys, now);
        let probe = health.begin(candidate);
        Self { node: node.clone(), candidate: candidate.clone(), key, probe, began: now }
    }

    /// The first content is there.
    pub(super) fn answered(&self) {
        let after = self.node.platform().now().since(self.began);
        self.node.health().borrow_mut().answered(&self.candidate, after);
    }

    /// What the provider says about its limits.
    pub(super) fn limited(&self, limits: RateLimit) {
        self.node.health().borrow_mut().limited(&self.candidate, limits, self.node.platform().now());
    }

    pub(super) fn succeeded(&self) {
        let now = self.node.platform().now();
        self.node.health().borrow_mut().succeeded(&self.candidate, self.probe, now);
    }

    /// Says whether another key of the provider may do better.
    pub(super) fn failed(&self, error: &ProviderError) -> bool {
        let (now, chance) = (self.node.platform().now(), self.node.chance());
        let provider = &self.candidate.provider;
        let keys = self.node.config().provider(provider).map_or(0, |provider| provider.keys.len());
        let mut health = self.node.health().borrow_mut();
        if keys > 1 && error.class.is_of_key() {
            health.rest_key(provider, self.key, error, now);
            if health.has_key(provider, keys, now) {
                return true;
            }
        }
        health.failed(&self.candidate, error, self.probe, now, chance);
        false
    }
}

impl<P: Platform> Drop for Flight<P> {
    fn drop(&mut self) {
        self.node.health().borrow_mut().end(&self.candidate, self.probe);
    }
}
