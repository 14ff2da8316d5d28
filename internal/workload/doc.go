// Package workload has what programs that measure stores share: rows whose keys and
// values follow from a number, so that whatever is read can be checked; the Zipf
// distribution; histograms of latencies; and what the process and its files take.
//
// The methods of Rows may be called by many goroutines at once. A Histogram belongs
// to one at a time.
package workload
