"""What came of an audit: as JSON, as a table, as a page, as SARIF."""
