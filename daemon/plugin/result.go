package plugin

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A Result says how a crawl takes the outcome of one request (crawl.md 8): the classic
// node's result classes, which plugins assign to status numbers and failures.
type Result struct {
	Class   string        // last part of the name, "RetrySameUrlException"
	Retry   bool          // try again
	Fail    bool          // the crawl ends unsuccessful (after retries)
	Fatal   bool          // the crawl stops
	NoStore bool          // content is not stored
	Tries   int           // in all; 0: the crawler's default
	Delay   time.Duration // between tries; 0: the crawler's default
}

// resultPrefix is the package of the result classes.
const resultPrefix = "org.lockss.util.urlconn.CacheException$"

var retryable = regexp.MustCompile(`^RetryableNetworkException_([235])(?:_(10S|30S|60S|5M))?$`)

// ResultClass finds a result class by its last part or its full name.
func ResultClass(name string) (Result, bool) {
	name = strings.TrimPrefix(name, resultPrefix)
	r := Result{Class: name}
	switch name {
	case "NoRetryDeadLinkException", "NoRetryNewUrlException", "NoRetryPermUrlException", "NoRetryTempUrlException",
		"ExtractionError", "IgnoreCloseException", "MalformedURLException", "RedirectOutsideCrawlSpecException",
		"UnimplementedCodeException", "WarningOnly":
	case "NoStoreWarningOnly":
		r.NoStore = true
	case "PermissionException":
		r.Fail, r.Fatal = true, true
	case "RetryDeadLinkException":
		r.Retry = true
	case "RetrySameUrlException", "RetryableException":
		r.Retry, r.Fail = true, true
	case "ExpectedNoRetryException", "ExploderException", "NoRetryHostException", "NoRetryRepositoryException",
		"RepositoryException", "UnexpectedNoRetryFailException", "UnexpectedNoRetryNoFailException",
		"UnknownCodeException", "UnknownExceptionException", "UnretryableException":
		r.Fail = true
	default:
		m := retryable.FindStringSubmatch(name)
		if m == nil {
			return Result{}, false
		}
		r.Retry, r.Fail = true, true
		r.Tries, _ = strconv.Atoi(m[1])
		r.Delay = map[string]time.Duration{"10S": 10 * time.Second, "30S": 30 * time.Second, "60S": time.Minute, "5M": 5 * time.Minute}[m[2]]
	}
	return r, true
}

// resultList is plugin_cache_result_list: status number, "emptyfile" or a Java class name
// to result.
type resultList map[string]Result

// parseResults reads the list; classes it does not know are returned beside.
func parseResults(items []string) (resultList, []string, error) {
	rl := resultList{}
	var unknown []string
	for _, it := range items {
		left, right, ok := strings.Cut(it, "=")
		left, right = strings.TrimSpace(left), strings.TrimSpace(right)
		if !ok || left == "" || right == "" {
			return nil, nil, fmt.Errorf("%q: want left=right", it)
		}
		r, ok := Result{}, false
		if strings.HasPrefix(right, resultPrefix) {
			r, ok = ResultClass(right)
		}
		if !ok {
			unknown = append(unknown, it)
			continue
		}
		if strings.EqualFold(left, "EmptyFile") {
			left = emptyFile
		}
		rl[left] = r
	}
	return rl, unknown, nil
}

const emptyFile = "emptyfile"
