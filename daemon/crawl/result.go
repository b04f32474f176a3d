package crawl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"

	"armarium/daemon/plugin"
)

// Limits of our own that a URL or a crawl ran into.
var (
	ErrURLLength = errors.New("the URL is longer than the limit")
	ErrURLTime   = errors.New("the URL took longer than the limit")
	ErrFileSize  = errors.New("the file is larger than the limit")
	ErrDepth     = errors.New("pages lie deeper than the limit")
	ErrURLs      = errors.New("the unit has more URLs than the limit")
	ErrCrawlTime = errors.New("the crawl took longer than the limit")
	ErrCrawlSize = errors.New("the crawl received more bytes than the limit")
)

// errWrongLength is a body that is shorter than its Content-Length.
var errWrongLength = errors.New("the body ended before its Content-Length")

// errNoResponse is a server that closed the connection without an answer.
var errNoResponse = errors.New("the server closed the connection without an answer")

// classOf gives the result class of the name, which is one of this file's tables.
func classOf(name string) plugin.Result {
	r, ok := plugin.ResultClass(name)
	if !ok {
		r = plugin.Result{Class: name, Fail: true}
	}
	return r
}

// statusClass is the result class of an HTTP status (crawl.md 8.2); ok is false for success.
func statusClass(code int) (name string, ok bool) {
	switch code {
	case 200, 203, 304:
		return "", false
	case 301:
		return "NoRetryPermUrlException", true
	case 302, 303, 307:
		return "NoRetryTempUrlException", true
	case 401, 403, 407:
		return "PermissionException", true
	case 408, 409, 413, 500, 502, 503, 504:
		return "RetrySameUrlException", true
	case 204, 300, 400, 404, 405, 406, 410:
		return "NoRetryDeadLinkException", true
	case 305, 402:
		return "ExpectedNoRetryException", true
	case 201, 202, 205, 206, 306, 411, 412, 416, 417, 501, 505:
		return "UnexpectedNoRetryFailException", true
	case 414, 415:
		return "UnexpectedNoRetryNoFailException", true
	}
	return "UnknownCodeException", true
}

// isRedirect says whether a result class means that the Location header is followed.
func isRedirect(class string) bool {
	return class == "NoRetryPermUrlException" || class == "NoRetryTempUrlException" || class == "NoRetryNewUrlException"
}

// failureClass is the result class of the Java classes that stand for failures, with the
// ancestors in which failures differ (crawl.md 8.2).
var failureClass = map[string]string{
	"java.net.UnknownHostException":                                          "RetryableNetworkException_2_30S",
	"java.net.SocketException":                                               "RetryableNetworkException_3_30S",
	"java.net.ConnectException":                                              "RetryableNetworkException_3_30S",
	"java.net.NoRouteToHostException":                                        "RetryableNetworkException_3_30S",
	"java.net.PortUnreachableException":                                      "RetryableNetworkException_3_30S",
	"java.net.SocketTimeoutException":                                        "RetryableNetworkException_3_30S",
	"org.lockss.util.urlconn.LockssUrlConnection$ConnectionTimeoutException": "RetryableNetworkException_3_30S",
	"org.lockss.plugin.ContentValidationException":                           "UnretryableException",
	"org.lockss.plugin.ContentValidationException$EmptyFile":                 "WarningOnly",
	"org.lockss.plugin.ContentValidationException$WrongLength":               "RetryableNetworkException_3_10S",
	"org.lockss.plugin.ContentValidationException$ValidatorExeception":       "UnexpectedNoRetryFailException",
}

// failureResult is the default result of a failure that stands for a Java class; classes it
// does not know are UnknownException.
func failureResult(javaClass string) plugin.Result {
	if name, ok := failureClass[javaClass]; ok {
		return classOf(name)
	}
	return classOf("UnknownExceptionException")
}

// javaClasses are the Java classes that stand for a failure of ours, nearest first: plugins
// name them (plugins.md 9).
func javaClasses(err error) []string {
	var dns *net.DNSError
	var op *net.OpError
	var timeout net.Error
	socket := []string{"java.net.SocketException", "java.io.IOException"}
	switch {
	case errors.Is(err, errWrongLength):
		return []string{"org.lockss.plugin.ContentValidationException$WrongLength", "org.lockss.plugin.ContentValidationException"}
	case errors.Is(err, errNoResponse):
		return []string{"org.apache.http.NoHttpResponseException", "java.io.IOException"}
	case isTLS(err):
		return []string{"javax.net.ssl.SSLHandshakeException", "javax.net.ssl.SSLException", "java.io.IOException"}
	case errors.As(err, &dns):
		return []string{"java.net.UnknownHostException", "java.io.IOException"}
	case errors.As(err, &op) && op.Op == "dial" && op.Timeout():
		return []string{"org.lockss.util.urlconn.LockssUrlConnection$ConnectionTimeoutException", "java.io.InterruptedIOException", "java.io.IOException"}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return []string{"java.net.SocketTimeoutException", "java.io.InterruptedIOException", "java.io.IOException"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return append([]string{"java.net.ConnectException"}, socket...)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return append([]string{"java.net.NoRouteToHostException"}, socket...)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.As(err, &op):
		return socket
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return []string{"java.io.EOFException", "java.io.IOException"}
	}
	return []string{"java.io.IOException"}
}

func isTLS(err error) bool {
	var (
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	return errors.As(err, &verify) || errors.As(err, &record) || errors.As(err, &alert) ||
		errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid)
}

// A fault is why a URL was not collected, and what follows from it.
type fault struct {
	result plugin.Result
	err    error
	status Status // of the crawl if it fails; FetchError if 0
	stop   bool   // the crawl cannot go on, whatever the result class
}

func (f *fault) Error() string { return f.err.Error() }

func (f *fault) Unwrap() error { return f.err }

// httpFault is the fault of a status number.
func (cr *crawl) httpFault(resp *http.Response, name string) *fault {
	r, ok := cr.plugin.Result(resp.StatusCode)
	if !ok {
		r = classOf(name)
	}
	text := strings.TrimSpace(resp.Status)
	if text == "" {
		text = fmt.Sprint(resp.StatusCode)
	}
	return &fault{result: r, err: errors.New(text)}
}

// ioFault is the fault of a request or body that failed on the way.
func (cr *crawl) ioFault(ctx context.Context, err error) *fault {
	if cause := context.Cause(ctx); cause != nil {
		// The crawl was stopped, or the URL took too long.
		f := &fault{result: classOf("UnknownExceptionException"), err: cause}
		f.stop = !errors.Is(cause, ErrURLTime)
		return f
	}
	if errors.Is(err, ErrFileSize) {
		return &fault{result: classOf("UnretryableException"), err: err}
	}
	if errors.Is(err, ErrCrawlSize) {
		return &fault{result: classOf("UnretryableException"), err: err, status: Error, stop: true}
	}
	classes := javaClasses(err)
	r, ok := cr.plugin.ResultFailure(classes...)
	if !ok {
		r = failureResult(classes[0])
	}
	return &fault{result: r, err: err}
}

// storeFault is the fault of a disk: the crawl stops, since the next URL would fail too.
func storeFault(err error) *fault {
	return &fault{result: classOf("RepositoryException"), err: err, status: RepositoryError, stop: true}
}

// entry is a fault that is listed and does not fail the crawl.
func entry(class, format string, args ...any) *fault {
	return &fault{result: classOf(class), err: fmt.Errorf(format, args...)}
}
