package main

import (
	"fmt"
	"os"
	"text/tabwriter"
	"time"
)

// A table is printed with its columns aligned.
type table struct{ w *tabwriter.Writer }

func newTable(head ...string) table {
	t := table{tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)}
	fmt.Fprintln(t.w)
	cells := make([]any, len(head))
	for i, h := range head {
		cells[i] = h
	}
	t.row(cells...)
	return t
}

func (t table) row(cells ...any) {
	for _, cell := range cells {
		fmt.Fprint(t.w, cell, "\t")
	}
	fmt.Fprintln(t.w)
}

func (t table) print() { t.w.Flush() }

// ratio prints a/b, or a dash if b is 0.
func ratio(a, b float64) string {
	if b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", a/b)
}

func rate(ops int, took time.Duration) string {
	if ops == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", float64(ops)/took.Seconds())
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/(1<<20)) }

// short prints a duration with three digits or so.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(100 * time.Nanosecond).String()
}
