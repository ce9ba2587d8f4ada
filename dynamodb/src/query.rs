//! Reads the items of a key range, page by page. Knows nothing of what they mean.

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use outlive::platform::StoreError;

use crate::{
    error::unavailable,
    layout::{Item, KeyRange, PARTITION_KEY, Projection, SORT_KEY, text},
    store::DynamoStore,
};

impl DynamoStore {
    /// Passes the items of `range` to `take` in the order of their keys, until `take` returns `false`.
    pub(crate) async fn query(
        &self,
        range: KeyRange,
        projection: Projection,
        mut take: impl FnMut(Item) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let request = self.request(range).set_projection_expression(projection.expression());
        let mut start = None;
        loop {
            let page = request.clone().set_exclusive_start_key(start);
            let page = page.send().await.map_err(|error| unavailable(&error))?;
            for item in page.items.unwrap_or_default() {
                if !take(item)? {
                    return Ok(());
                }
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(());
            }
        }
    }

    /// The last item of `range`.
    pub(crate) async fn query_last(&self, range: KeyRange) -> Result<Option<Item>, StoreError> {
        let request = self.request(range).scan_index_forward(false).limit(1);
        let page = request.send().await.map_err(|error| unavailable(&error))?;
        Ok(page.items.and_then(|items| items.into_iter().next()))
    }

    /// A query of `range` that sees every write that has ended.
    fn request(&self, range: KeyRange) -> QueryFluentBuilder {
        let request = self.client.query().table_name(&self.table).consistent_read(true);
        request
            .key_condition_expression(format!(
                "{PARTITION_KEY} = :pk AND {SORT_KEY} BETWEEN :first AND :last"
            ))
            .expression_attribute_values(":pk", text(range.partition))
            .expression_attribute_values(":first", text(range.first))
            .expression_attribute_values(":last", text(range.last))
    }
}
