package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"weir/schemas/money"
)

const (
	// A terminal's progress line is refreshed this often, a file gets a line this often.
	refreshEvery = 100 * time.Millisecond
	lineEvery    = 5 * time.Second
	// differencesMax keeps the output of a broken run readable.
	differencesMax = 40
	// shownNano is the last place of amounts in tables, a hundredth of a cent.
	shownNano = money.Dollar / 10_000
)

// isTerminal tells whether lines can be written over.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// progress shows how far the requests are until stop is closed.
func progress(w io.Writer, done *atomic.Int64, of int, stop <-chan struct{}) {
	form, every := "%s of %s requests\n", lineEvery
	terminal := isTerminal(w)
	if terminal {
		form, every = "\r\x1b[K%s of %s requests", refreshEvery
	}
	for tick := time.NewTicker(every); ; {
		select {
		case <-stop:
			tick.Stop()
			if terminal {
				fmt.Fprint(w, "\r\x1b[K")
			}
			return
		case <-tick.C:
			fmt.Fprintf(w, form, thousands(int(done.Load())), thousands(of))
		}
	}
}

// thousands writes a count with commas.
func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// rounded writes an amount with the places that a table shows.
func rounded(n money.Nano) string {
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	n = (n + shownNano/2) / shownNano
	if n == 0 {
		sign = ""
	}
	return fmt.Sprintf("%s$%d.%04d", sign, n/10_000, n%10_000)
}

// printMargins prints a margin report, its total last.
func printMargins(w io.Writer, head string, r *report) {
	lines := [][]string{{head, "REQUESTS", "COST", "PRICE", "MARGIN", "%"}}
	for _, m := range append(r.Rows, r.Totals) {
		name, percent := m.name(), m.Percent.String()
		if name == "" {
			name = "total"
		}
		if percent == "" {
			percent = "-"
		}
		lines = append(lines, []string{name, thousands(m.Requests), rounded(m.Cost), rounded(m.Price), rounded(m.Margin), percent})
	}
	table(w, lines)
}

// table prints aligned columns: the first to the left, figures to the right.
func table(w io.Writer, lines [][]string) {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, text := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(text))
		}
	}
	for _, line := range lines {
		var out strings.Builder
		for i, text := range line {
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			if i == 0 {
				out.WriteString(text + gap)
			} else {
				out.WriteString("  " + gap + text)
			}
		}
		fmt.Fprintln(w, out.String())
	}
	fmt.Fprintln(w)
}

// printDifferences tells them line by line.
func printDifferences(w io.Writer, differences []string) {
	for i, text := range differences {
		if i == differencesMax {
			fmt.Fprintf(w, "  and %s more\n", thousands(len(differences)-i))
			break
		}
		fmt.Fprintf(w, "  %s\n", text)
	}
}
