// Command standin runs the provider stand-in that the bench and the crash check put behind a proxy.
package main

import (
	"os"

	"weir/internal/standin"
)

func main() { os.Exit(standin.Main(os.Args[1:])) }
