package crawl

import (
	"strconv"
	"time"

	"armarium/daemon/lockss"
)

// Status is how a crawl ended (crawl.md 3). The numbers are stored in the state of the unit.
type Status int

// All status codes; this package does not give those of crawl windows and crawl tests.
const (
	Unknown Status = iota
	Pending
	Active
	Successful
	Error
	Aborted
	WindowClosed
	FetchError
	NoPermission
	PluginError
	RepositoryError
	Interrupted
	ExtractorError
	TestSuccessful
	TestFailed
)

var statusTexts = [...]string{
	"Unknown", "Pending", "Active", "Successful", "Error", "Aborted", "Interrupted by crawl window", "Fetch error",
	"No permission from publisher", "Plugin error", "Repository error", "Interrupted by daemon exit", "Link extractor error",
	"Crawl test successful", "Crawl test failed",
}

func (s Status) String() string {
	if s >= 0 && int(s) < len(statusTexts) {
		return statusTexts[s]
	}
	return "status " + strconv.Itoa(int(s))
}

// Kinds of crawl.
const (
	KindNewContent = "new content"
	KindRepair     = "repair"
)

// A Failure is a URL and what was wrong with it; a reason that begins with "warning:" is of a
// URL that was collected all the same.
type Failure struct{ URL, Reason string }

// maxFailures is how many failures a Result lists.
const maxFailures = 10_000

// Result is what a crawl came to.
type Result struct {
	AU             lockss.AUID
	Registry       bool // the unit is a plugin registry
	Kind           string
	Started, Ended time.Time
	Status         Status
	Message        string // the first error; "" when successful

	Fetched     int   // URLs whose bytes came in, whether or not they were new
	NotModified int   // URLs of which the publisher said so
	Changed     int   // new versions stored, redirecting URLs included
	Excluded    int   // links outside the crawl rules
	Errors      int   // entries in Failures, warnings aside; not all of them fail the crawl
	Bytes       int64 // received
	Failures    []Failure
}

// Progress is a crawl that is going on.
type Progress struct {
	AU          lockss.AUID
	Kind        string
	Started     time.Time
	Fetched     int
	NotModified int
	Queued      int // URLs still to look at
	Bytes       int64
	URL         string // being worked on
	Errors      int
	Waiting     bool // for hashes of the unit to end
}
