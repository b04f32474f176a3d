// Package crawl collects archival units from their publishers (crawl.md).
//
//	Run       starts crawls of units that are due, as far as the limits allow   crawler.go
//	Request   a crawl now, asked for by an operator                             crawler.go
//	Refetch   one URL again, to repair it                                       crawler.go
//	crawl     one crawl: the queue of URLs, links, result                       crawl.go
//	fetch     one URL: redirects, retries, storing                              fetch.go
//	permission pages and the statements on them                                 permission.go
//	limiter   who may send a request, or start a crawl, when                    rate.go
//	results   what a status number or a failure means                           result.go
//
// A crawl holds the unit's crawl lock ([au.Unit.BeginCrawl]), so that no poll hashes what is
// changing; a single URL fetched for a repair does not. Bytes go to a store.Writer while they
// come in and are sealed only when the whole body is there: a publisher that stalls, cuts a
// body short or answers nonsense changes nothing that is stored. Only http and https are ever
// asked, certificates are verified, and a host that gives no permission is not asked for
// anything but its permission page.
//
// Limits of our own, which 1.x does not have, keep a hostile or broken site from taking all
// memory, disk or time; each ends the crawl, or the URL, with an error that names it.
package crawl
