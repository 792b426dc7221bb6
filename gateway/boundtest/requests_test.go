//go:build !race

package boundtest

// requests are enough for every kind of text to meet every shape 63 times.
const requests = 63 * 21 * 8
