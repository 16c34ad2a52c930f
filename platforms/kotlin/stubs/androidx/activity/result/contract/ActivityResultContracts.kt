@file:Suppress("UNUSED_PARAMETER", "UNUSED")

package androidx.activity.result.contract

import android.net.Uri
import androidx.activity.result.PickVisualMediaRequest

class ActivityResultContracts private constructor() {
    open class PickVisualMedia : ActivityResultContract<PickVisualMediaRequest, Uri?>() {
        sealed interface VisualMediaType

        object ImageOnly : VisualMediaType
    }

    open class CreateDocument(mimeType: String) : ActivityResultContract<String, Uri?>()

    class RequestPermission : ActivityResultContract<String, Boolean>()
}
