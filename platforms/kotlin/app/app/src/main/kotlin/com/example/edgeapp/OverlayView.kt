package com.example.edgeapp

import android.content.Context
import android.graphics.Bitmap
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.graphics.Path
import android.graphics.RectF
import android.util.AttributeSet
import android.view.View
import edgekit.Fitting
import edgekit.Overlay
import java.util.Locale

/** Draws an overlay over a frame that is shown whole, as `fitCenter` shows it. */
class OverlayView(context: Context, attributes: AttributeSet?) : View(context, attributes) {
    var overlay: Overlay? = null
        set(value) {
            field = value
            images = value?.bitmaps?.filter { it.width > 0 && it.height > 0 }
                ?.map { it to Bitmap.createBitmap(it.pixels, it.width, it.height, Bitmap.Config.ARGB_8888) }.orEmpty()
            invalidate()
        }

    private var images: List<Pair<Overlay.Pixelmap, Bitmap>> = emptyList()
    private val unit = resources.displayMetrics.density
    private val paint = Paint(Paint.ANTI_ALIAS_FLAG).apply {
        strokeWidth = 2.5f * unit
        textSize = 13 * unit
    }

    override fun onDraw(canvas: Canvas) {
        super.onDraw(canvas)
        val overlay = overlay ?: return
        val fitting = Fitting(overlay.size, width.toDouble(), height.toDouble())
        for ((map, image) in images) {
            val (left, top) = map.left.toFloat() to map.top.toFloat()
            canvas.drawBitmap(image, null, RectF(fitting.x(left), fitting.y(top), fitting.x(left + map.width), fitting.y(top + map.height)), null)
        }
        for (item in overlay.items) lines(item, canvas, fitting)
        for (item in overlay.items) tag(item, canvas, fitting)
    }

    private fun lines(item: Overlay.Item, canvas: Canvas, fitting: Fitting) {
        val path = Path()
        item.outline.forEachIndexed { at, (x, y) -> if (at == 0) path.moveTo(fitting.x(x), fitting.y(y)) else path.lineTo(fitting.x(x), fitting.y(y)) }
        path.close()
        for ((from, to) in item.bones) {
            path.moveTo(fitting.x(from.x), fitting.y(from.y))
            path.lineTo(fitting.x(to.x), fitting.y(to.y))
        }
        paint.style = Paint.Style.STROKE
        paint.color = item.colour
        canvas.drawPath(path, paint)
        paint.style = Paint.Style.FILL
        paint.color = Color.WHITE
        for ((x, y) in item.keypoints) canvas.drawCircle(fitting.x(x), fitting.y(y), 3.5f * unit, paint)
    }

    private fun tag(item: Overlay.Item, canvas: Canvas, fitting: Fitting) {
        val corner = item.outline.firstOrNull() ?: return
        val text = "${item.caption} %.2f".format(Locale.ROOT, item.score)
        val (wide, high) = paint.measureText(text) + 8 * unit to 18 * unit
        val left = fitting.x(corner.x).coerceAtMost(width - wide).coerceAtLeast(0f)
        val top = fitting.y(corner.y).let { if (it >= high) it - high else it }
        paint.style = Paint.Style.FILL
        paint.color = item.colour
        canvas.drawRect(left, top, left + wide, top + high, paint)
        paint.color = Color.BLACK
        canvas.drawText(text, left + 4 * unit, top + high - 5 * unit, paint)
    }
}
