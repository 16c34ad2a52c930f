package edgekit

/** Lets one piece of work be done at a time, and lets go of what it works with after the last. */
internal class Turn(private val busy: String, private val closed: String, private val release: () -> Unit) : AutoCloseable {
    private val lock = Any()
    private var isRunning = false
    private var isClosed = false

    /** Do something while nothing else runs. Throws [EdgeKitException.Busy], [EdgeKitException.Closed]. */
    suspend fun <T> alone(work: suspend () -> T): T {
        synchronized(lock) {
            if (isClosed) throw EdgeKitException.Closed(closed)
            if (isRunning) throw EdgeKitException.Busy(busy)
            isRunning = true
        }
        try {
            return work()
        } finally {
            val isLast = synchronized(lock) {
                isRunning = false
                isClosed
            }
            if (isLast) release()
        }
    }

    /** Nothing begins any more. */
    override fun close() {
        val isIdle = synchronized(lock) {
            if (isClosed) return
            isClosed = true
            !isRunning
        }
        if (isIdle) release()
    }
}
