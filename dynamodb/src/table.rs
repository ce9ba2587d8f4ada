//! Creates the table, which only DynamoDB Local needs: in the cloud `template.yaml` declares it.

use aws_sdk_dynamodb::{
    error::{BuildError, ProvideErrorMetadata},
    types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType},
};
use outlive::platform::StoreError;

use crate::{
    error::unavailable,
    layout::{PARTITION_KEY, SORT_KEY},
    store::DynamoStore,
};

impl DynamoStore {
    /// Creates the table unless it exists.
    pub async fn create_table(&self) -> Result<(), StoreError> {
        let request = self
            .client
            .create_table()
            .table_name(&self.table)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(attribute(PARTITION_KEY).map_err(invalid)?)
            .attribute_definitions(attribute(SORT_KEY).map_err(invalid)?)
            .key_schema(key(PARTITION_KEY, KeyType::Hash).map_err(invalid)?)
            .key_schema(key(SORT_KEY, KeyType::Range).map_err(invalid)?);
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("ResourceInUseException") => Ok(()),
            Err(error) => Err(unavailable(&error)),
        }
    }
}

fn attribute(name: &str) -> Result<AttributeDefinition, BuildError> {
    AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build()
}

fn key(name: &str, kind: KeyType) -> Result<KeySchemaElement, BuildError> {
    KeySchemaElement::builder().attribute_name(name).key_type(kind).build()
}

fn invalid(error: BuildError) -> StoreError {
    StoreError::Unavailable(format!("the table's description: {error}"))
}
