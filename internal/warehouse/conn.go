package warehouse

import "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

// Conn is a connection for reading; a name of this package, so that readers
// need not import the client.
type Conn = driver.Conn

// Rows is what a query on a Conn answers.
type Rows = driver.Rows
